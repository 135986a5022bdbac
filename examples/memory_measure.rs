//! Measures a FLUX transformer's way from its files to the device and back, and denoise steps with streamed blocks:
//!
//! ```sh
//! DEVICE=cuda cargo run --release --features cuda --example memory_measure -- MODEL [GIB...]
//! ```
//!
//! `MODEL` is whatever `marquee generate` accepts. For each `GIB`, steps are timed with no more than that much of the
//! transformer on the device (16, 12 and 8 if none is given), against all of it. Prints JSON; every figure is of this one run
//! on this one device. The first read is cold only if the page cache was. `DEVICE`, `DTYPE`, `QUANTIZATION` and `HOST_PACKING`
//! as everywhere; rates count the weights' bytes, packed or not. Every weight that came by way of main memory is compared
//! with what came straight from the files, bit for bit, unless it was rounded, and some of those with the files.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use marquee::memory::pace::Pace;
use marquee::memory::schedule::RING_SLOTS;
use marquee::memory::{Parts, Store, Transfer};
use marquee::models::checkpoint::{Caches, FluxCheckpoint, Replacements};
use marquee::models::device::{self, Target};
use marquee::models::flux::{Conditioner, FluxConfig, Modulation, Transformer};
use marquee::models::rng::Generator;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::weights::{Content, Entry, Source, Weights};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Steps of a timed run; the first warms up.
const STEPS: usize = 8;

/// Edge of the picture in packed tokens: 1024 pixels.
const EDGE: usize = 64;

#[allow(clippy::too_many_lines, reason = "one measurement after the other")]
fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: memory_measure MODEL [GIB...]")?;
    let mut budgets: Vec<f64> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    if budgets.is_empty() {
        budgets = vec![16.0, 12.0, 8.0];
    }
    let target: Target =
        std::env::var("DEVICE").map_or_else(|_| Ok(Target::default()), |text| text.parse())?;
    let dtype = match std::env::var("DTYPE") {
        Ok(text) => device::dtype(&text)?,
        Err(_) => target.default_dtype(),
    };
    let blocks = std::env::var("QUANTIZATION").map_or(Ok(None), |text| device::quantisation(&text))?;
    let device = target.open()?;
    device::check(blocks, &device)?;
    let transfer = Transfer::new(&device)?;
    let files = FluxCheckpoint::open(&model, &Replacements::default(), &Caches::default())?;
    let config = files.transformer.config.clone();
    let base = in_use(&device)?;

    let source = Arc::clone(&files.transformer.source);
    let build = |w: &Weights| Transformer::new(&config, &w.in_eight(blocks));
    let store = Store::new("FLUX", source, dtype, &device, |w| build(w).map(drop))?;
    let store = Arc::new(packing(store)?);
    let bytes = store.bytes();
    let mut out = serde_json::Map::new();
    let mut put = |name: &str, value: Value| {
        eprintln!("{name}: {value}");
        out.insert(name.to_owned(), value);
    };
    put("device", target.to_string().into());
    put("dtype", dtype.as_str().into());
    put("blocks", blocks.map(|blocks| blocks.to_string()).into());
    put("bytes", bytes.into());
    put("pieces", store.pieces().len().into());

    let all: Vec<usize> = (0..store.pieces().len()).collect();
    for round in ["first", "again"] {
        let mut parts = Parts::new(&store, &transfer);
        let ((), seconds) = timed(&device, || {
            parts.bring(&all, &|| true)?;
            parts.wait();
            Ok(())
        })?;
        put(&format!("files_to_device_{round}"), rate(bytes, seconds));
        if round == "again" {
            let placed = parts.weights(&[], true)?;
            let keys = differing_from_files(&store, &placed, &files.transformer.source, dtype, 23)?;
            put("of_every_23rd_weight_differ_from_their_files", keys);
        }
    }
    let ((), seconds) = timed(&device, || store.load_host(&Pace::default()))?;
    put("files_to_host_first", rate(bytes, seconds));
    let ((), seconds) = timed(&device, || {
        store.drop_host();
        Ok(())
    })?;
    put("host_dropped_seconds", seconds.into());
    let ((), seconds) = timed(&device, || store.load_host(&Pace::default()))?;
    put("files_to_host_again", rate(bytes, seconds));
    put("host_bytes", store.host_bytes().into());
    put("host_bytes_ratio", (store.host_bytes() as f64 / bytes as f64).into());

    for round in ["first", "again"] {
        let mut parts = Parts::new(&store, &transfer);
        let begun = Instant::now();
        parts.bring(&all, &|| true)?;
        let asked = begun.elapsed().as_secs_f64();
        parts.wait();
        let seconds = begun.elapsed().as_secs_f64();
        put(&format!("host_to_device_{round}"), rate(bytes, seconds));
        put(&format!("host_to_device_{round}_over_the_bus"), rate(store.host_bytes(), seconds));
        put(&format!("host_to_device_{round}_call_seconds"), asked.into());
        let (net, seconds) = timed(&device, || build(&parts.weights(&[], true)?))?;
        put(&format!("built_{round}_seconds"), seconds.into());
        put(&format!("in_use_{round}_bytes"), grown(&device, base)?);
        if round == "again" && !device.is_cpu() {
            // By the two ways, which share nothing but the files. Needs room for both.
            let by_way = parts.weights(&[], true)?;
            let host = Arc::new(packing(Store::new(
                "FLUX again",
                Arc::clone(&files.transformer.source),
                dtype,
                &device,
                |w| build(w).map(drop),
            )?)?);
            let mut straight = Parts::new(&host, &transfer);
            straight.bring(&all, &|| true)?;
            let placed = straight.weights(&[], true)?;
            put("weights_that_differ_by_the_two_ways", differing(&store, &by_way, &placed)?);
        }
        let begun = Instant::now();
        drop((net, parts));
        transfer.settle()?;
        put(&format!("freed_{round}_seconds"), begun.elapsed().as_secs_f64().into());
        put(&format!("in_use_after_{round}_bytes"), grown(&device, base)?);
    }

    let input = Input::new(&config, &files.transformer.weights(dtype, &device), dtype, &device)?;
    let base = in_use(&device)?;
    let mut measure = |name: &str, streamed: &[usize]| -> Outcome<Tensor> {
        let mut parts = Parts::new(&store, &transfer);
        let stay: Vec<usize> = all.iter().copied().filter(|piece| !streamed.contains(piece)).collect();
        parts.bring(&stay, &|| true)?;
        let net = build(&parts.weights(streamed, true)?)?;
        device.synchronize()?;
        let weights = grown(&device, base)?;
        let (prediction, steps) = input.run(&net, &device)?;
        let crossing: u64 = streamed.iter().filter_map(|piece| store.pieces().get(*piece).copied()).sum();
        put(
            name,
            json!({
                "step_milliseconds_median": median(&steps),
                "step_milliseconds": steps,
                "streamed_blocks": streamed.len(),
                "streamed_bytes_a_step": crossing,
                "weights_in_use_bytes": weights,
            }),
        );
        Ok(prediction)
    };
    let expected = measure("steps_resident", &[])?;
    let mut equal = true;
    for budget in budgets {
        let streamed = split(&store, (budget * f64::from(1 << 30)) as u64);
        let found = measure(&format!("steps_within_{budget}_gib"), &streamed)?;
        equal &= bits(&found)? == bits(&expected)?;
    }
    put("streamed_predictions_equal_resident", equal.into());
    drop((input, expected));
    store.drop_host();

    let net = &files.text_encoder_2;
    let build = |w: &Weights| T5Encoder::new(&net.config, w);
    let store = Store::new("T5", Arc::clone(&net.source), dtype, &device, |w| build(w).map(drop))?;
    let store = Arc::new(packing(store)?);
    let ((), seconds) = timed(&device, || store.load_host(&Pace::default()))?;
    put("t5_files_to_host", rate(store.bytes(), seconds));
    let ids = [(0..512).map(|at| at % 32000).collect::<Vec<u32>>()];
    for (name, streamed) in [("t5_resident", 0), ("t5_streamed", store.pieces().len().saturating_sub(1))] {
        let count = store.pieces().len();
        let streamed: Vec<usize> = (count - streamed..count).collect();
        for round in ["first", "again"] {
            let (_, seconds) = timed(&device, || {
                let mut parts = Parts::new(&store, &transfer);
                let stay: Vec<usize> = (0..count).filter(|piece| !streamed.contains(piece)).collect();
                parts.bring(&stay, &|| true)?;
                build(&parts.weights(&streamed, false)?)?.forward(&ids)
            })?;
            put(&format!("{name}_loaded_and_run_{round}_seconds"), seconds.into());
        }
    }
    put("in_use_at_the_end_bytes", grown(&device, base)?);
    println!("{}", Value::Object(out));
    Ok(())
}

/// As `HOST_PACKING` says.
fn packing(store: Store) -> Outcome<Store> {
    match std::env::var("HOST_PACKING").as_deref() {
        Ok("on") => Ok(store.packing(true)),
        Ok("off") => Ok(store.packing(false)),
        Ok(other) => Err(format!("HOST_PACKING={other}: expected on or off").into()),
        Err(_) => Ok(store),
    }
}

/// Keys of tensors that are not the same in two places on the device, bit for bit.
fn differing(store: &Store, one: &Weights, other: &Weights) -> Outcome<Value> {
    let mut keys = Vec::new();
    for entry in whole(store) {
        let view = |weights: &Weights| weights.to_dtype(entry.dtype).get(entry.shape.as_slice(), &entry.key);
        // No weight is NaN, and 0 is written in one way.
        let unequal = view(one)?.ne(&view(other)?)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        if unequal > 0.0 {
            keys.push(entry.key.clone());
        }
    }
    Ok(keys.into())
}

/// The same of every `step`th tensor against its file, read by itself.
fn differing_from_files(
    store: &Store,
    placed: &Weights,
    source: &Arc<dyn Source>,
    dtype: DType,
    step: usize,
) -> Outcome<Value> {
    let plain = Weights::new(Arc::clone(source), dtype, &Device::Cpu);
    let mut keys = Vec::new();
    for entry in whole(store).step_by(step) {
        if bytes_of(placed, entry)? != bytes_of(&plain, entry)? {
            keys.push(entry.key.clone());
        }
    }
    Ok(keys.into())
}

fn whole(store: &Store) -> impl Iterator<Item = &Entry> {
    store.layout().entries().iter().filter(|entry| entry.content == Content::Whole)
}

fn bytes_of(weights: &Weights, entry: &Entry) -> candle_core::Result<Vec<u8>> {
    let tensor = weights.to_dtype(entry.dtype).get(entry.shape.as_slice(), &entry.key)?;
    let tensor = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    Ok(match entry.dtype {
        DType::F32 => bytemuck::cast_slice(&tensor.to_vec1::<f32>()?).to_vec(),
        DType::F16 => bytemuck::cast_slice(&tensor.to_vec1::<f16>()?).to_vec(),
        _ => bytemuck::cast_slice(&tensor.to_vec1::<bf16>()?).to_vec(),
    })
}

/// What every step reads.
struct Input {
    image: Tensor,
    text: Tensor,
    modulation: Modulation,
}

impl Input {
    fn new(config: &FluxConfig, weights: &Weights, dtype: DType, device: &Device) -> Outcome<Self> {
        let mut noise = Generator::new(1);
        let mut draw = |shape: &[usize]| noise.randn(shape, dtype, device);
        let pooled = draw(&[1, config.pooled_projection_dim])?;
        let times: Vec<f32> = (0..STEPS).map(|step| 1000.0 - 100.0 * step as f32).collect();
        Ok(Self {
            image: draw(&[1, EDGE * EDGE, config.in_channels])?,
            text: draw(&[1, 512, config.joint_attention_dim])?,
            modulation: Conditioner::new(config, weights)?.precompute(&times, 3.5, &pooled)?,
        })
    }

    /// The last prediction, and milliseconds of all steps but the first.
    fn run(&self, net: &Transformer, device: &Device) -> Outcome<(Tensor, Vec<f64>)> {
        let rope = net.rope(512, EDGE, EDGE, device)?;
        let mut image = self.image.clone();
        let mut steps = Vec::new();
        for step in 0..STEPS {
            let begun = Instant::now();
            image = net.forward(&image, &self.text, self.modulation.step(step), &rope, &mut |_| Ok(()))?;
            device.synchronize()?;
            steps.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        steps.remove(0);
        Ok((image, steps))
    }
}

/// As few blocks as keep the rest and the ring within `budget`, evenly spread.
fn split(store: &Store, budget: u64) -> Vec<usize> {
    let pieces = store.pieces();
    let blocks = pieces.len() - 1;
    let spread = |count: usize| -> Vec<usize> {
        (0..count).map(|at| 1 + (2 * at + 1) * blocks / (2 * count)).collect()
    };
    let taken = |streamed: &[usize]| {
        let away: u64 = streamed.iter().filter_map(|piece| pieces.get(*piece)).sum();
        store.bytes() - away + if streamed.is_empty() { 0 } else { RING_SLOTS * store.slot() }
    };
    (0..=blocks).map(spread).find(|streamed| taken(streamed) <= budget).unwrap_or_else(|| spread(blocks))
}

fn timed<T>(device: &Device, work: impl FnOnce() -> candle_core::Result<T>) -> Outcome<(T, f64)> {
    device.synchronize()?;
    let begun = Instant::now();
    let result = work()?;
    device.synchronize()?;
    Ok((result, begun.elapsed().as_secs_f64()))
}

fn rate(bytes: u64, seconds: f64) -> Value {
    json!({ "seconds": seconds, "gigabytes_per_second": bytes as f64 / seconds / 1e9 })
}

fn in_use(device: &Device) -> Outcome<Option<u64>> {
    Ok(device::memory(device)?.map(|memory| (memory.total - memory.free) as u64))
}

/// Bytes in use beyond `base`; nothing on a CPU.
fn grown(device: &Device, base: Option<u64>) -> Outcome<Value> {
    let now = in_use(device)?;
    Ok(now.zip(base).map_or(Value::Null, |(now, base)| (now as i64 - base as i64).into()))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bits(tensor: &Tensor) -> Outcome<Vec<u32>> {
    let flat = tensor.flatten_all()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    Ok(flat.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

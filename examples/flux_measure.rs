//! Runs a FLUX checkpoint on prepared token ids and leaves every stage's tensors and times for a comparison:
//!
//! ```sh
//! cargo run --release --features cuda --example flux_measure -- MODEL REQUEST.safetensors RESULT.safetensors
//! ```
//!
//! `REQUEST` holds `clip_ids` and `t5_ids` (1, tokens), `prompt_embeds` (1, words, channels), `pooled` (1, channels) and
//! the packed `latents` to start from, and in its metadata `width`, `height`, `steps`, `guidance` and `seed`. One prediction is made from `prompt_embeds` and
//! `pooled`, so that it differs from another program's by the transformer alone; the picture is made from the ids.
//! `RESULT` gets `prompt_embeds`, `pooled`, `noise`, `prediction`, `latents` and `image`; the times are printed as JSON.
//! `DEVICE` and `DTYPE` as everywhere. `scripts/gpu/compare_flux.py` calls this.

use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use marquee::models::checkpoint::{Caches, FluxCheckpoint, Replacements};
use marquee::models::device::{self, Target};
use marquee::models::flux::pipeline::{
    Denoiser, Guidance, Settings, Start, Watch, decode, denoise, encode, prepare,
};
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::schedulers::FlowMatch;
use marquee::models::text_encoders::clip::ClipText;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::vae::Vae;
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument =
        || arguments.next().ok_or("usage: flux_measure MODEL REQUEST.safetensors RESULT.safetensors");
    let (model, request, result) = (argument()?, argument()?, argument()?);
    let target: Target =
        std::env::var("DEVICE").map_or_else(|_| Ok(Target::default()), |text| text.parse())?;
    let dtype = match std::env::var("DTYPE") {
        Ok(text) => device::dtype(&text)?,
        Err(_) => target.default_dtype(),
    };
    let mut clock = Clock::start();
    let device = target.open()?;
    clock.lap("open_device", &device)?;
    let request = Request::read(Path::new(&request), &device)?;
    let checkpoint = FluxCheckpoint::open(&model, &Replacements::default(), &Caches::default())?;
    clock.lap("open_checkpoint", &device)?;
    let mut out = HashMap::new();

    let clip =
        ClipText::new(&checkpoint.text_encoder.config, &checkpoint.text_encoder.weights(dtype, &device))?;
    let t5 = T5Encoder::new(
        &checkpoint.text_encoder_2.config,
        &checkpoint.text_encoder_2.weights(dtype, &device),
    )?;
    clock.lap("load_text_encoders", &device)?;
    let prompt = encode(&clip, &t5, &request.clip_ids, &request.t5_ids)?;
    clock.lap("encode_first", &device)?;
    let prompt = {
        drop(prompt);
        encode(&clip, &t5, &request.clip_ids, &request.t5_ids)?
    };
    clock.lap("encode", &device)?;
    drop((clip, t5));
    out.insert("prompt_embeds", prompt.embeds.clone());
    out.insert("pooled", prompt.pooled.clone());

    let weights = checkpoint.transformer.weights(dtype, &device);
    let config = &checkpoint.transformer.config;
    let conditioner = Conditioner::new(config, &weights)?;
    let transformer = Transformer::new(config, &weights)?;
    clock.lap("load_transformer", &device)?;
    let vae_dtype = checkpoint.vae.config.safe_dtype(dtype);
    let vae = Vae::new(&checkpoint.vae.config, &checkpoint.vae.weights(vae_dtype, &device))?;
    clock.lap("load_vae", &device)?;

    let scheduler = FlowMatch::new(checkpoint.scheduler.clone())?;
    let mut prepared = prepare(&vae, &scheduler, &request.settings, &Start::Noise, dtype, &device)?;
    out.insert("noise", prepared.latents.clone());
    // A rounded draw differs from an exact one by as much as a whole bf16 prediction errs.
    prepared.latents = request.latents.to_dtype(dtype)?;
    let (embeds, pooled) = (request.prompt_embeds.to_dtype(dtype)?, request.pooled.to_dtype(dtype)?);
    let modulation = conditioner.precompute(&prepared.timesteps()[..1], request.guidance, &pooled)?;
    let rope = transformer.rope(embeds.dim(1)?, prepared.rows, prepared.columns, &device)?;
    clock.lap("prepare", &device)?;
    let prediction =
        transformer.forward(&prepared.latents, &embeds, modulation.step(0), &rope, &mut |_| Ok(()))?;
    out.insert("prediction", prediction);
    clock.lap("first_prediction", &device)?;

    let guidance = Guidance { scale: request.guidance, prompt: &prompt, negative: None };
    let denoiser = Denoiser::new(&transformer, &conditioner, &guidance, prepared.timesteps())?;
    drop(conditioner);
    clock.lap("modulation_of_all_steps", &device)?;
    let mut steps = Steps { device: &device, last: Instant::now(), milliseconds: Vec::new() };
    let latents = denoise(&denoiser, &prepared, &mut steps)?;
    clock.lap("denoise", &device)?;
    let milliseconds = steps.milliseconds;
    drop(decode(&vae, &latents, prepared.width, prepared.height)?);
    clock.lap("decode_first", &device)?;
    let image = decode(&vae, &latents, prepared.width, prepared.height)?.swap_remove(0);
    clock.lap("decode", &device)?;
    out.insert("latents", latents);
    let shape = (image.height() as usize, image.width() as usize, 3);
    out.insert("image", Tensor::from_vec(image.into_raw(), shape, &Device::Cpu)?);

    let out: HashMap<_, _> =
        out.into_iter().map(|(key, tensor)| Ok((key, host(&tensor)?))).collect::<candle_core::Result<_>>()?;
    candle_core::safetensors::save(&out, &result)?;
    let memory = device::memory(&device)?.map(|memory| memory.total - memory.free);
    let report = json!({
        "device": target.to_string(),
        "dtype": dtype.as_str(),
        "milliseconds": clock.laps.into_iter().collect::<serde_json::Map<_, _>>(),
        "step_milliseconds": milliseconds,
        "memory_in_use_bytes": memory,
    });
    println!("{report}");
    Ok(())
}

struct Request {
    clip_ids: Vec<Vec<u32>>,
    t5_ids: Vec<Vec<u32>>,
    prompt_embeds: Tensor,
    pooled: Tensor,
    latents: Tensor,
    guidance: f32,
    settings: Settings,
}

impl Request {
    fn read(path: &Path, device: &Device) -> Outcome<Self> {
        let bytes = std::fs::read(path)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |name: &str| {
            metadata.get(name).ok_or_else(|| format!("{}: no {name} in the metadata", path.display()))
        };
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        let tensor =
            |name: &str| tensors.get(name).ok_or_else(|| format!("{}: no tensor {name}", path.display()));
        let ids =
            |name: &str| -> Outcome<Vec<Vec<u32>>> { Ok(tensor(name)?.to_dtype(DType::U32)?.to_vec2()?) };
        Ok(Self {
            clip_ids: ids("clip_ids")?,
            t5_ids: ids("t5_ids")?,
            prompt_embeds: tensor("prompt_embeds")?.to_device(device)?,
            pooled: tensor("pooled")?.to_device(device)?,
            latents: tensor("latents")?.to_device(device)?,
            guidance: field("guidance")?.parse()?,
            settings: Settings {
                width: field("width")?.parse()?,
                height: field("height")?.parse()?,
                steps: field("steps")?.parse()?,
                seed: field("seed")?.parse()?,
            },
        })
    }
}

/// Wall time between points at which the device has finished.
struct Clock {
    last: Instant,
    laps: Vec<(String, serde_json::Value)>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, name: &str, device: &Device) -> candle_core::Result<()> {
        device.synchronize()?;
        let elapsed = self.last.elapsed().as_secs_f64() * 1e3;
        self.laps.push((name.to_owned(), ((elapsed * 10.0).round() / 10.0).into()));
        eprintln!("{name}: {elapsed:.1} ms");
        self.last = Instant::now();
        Ok(())
    }
}

struct Steps<'a> {
    device: &'a Device,
    last: Instant,
    milliseconds: Vec<f64>,
}

impl Watch for Steps<'_> {
    fn step(&mut self, done: u32, _: u32, _: &Tensor) -> ControlFlow<()> {
        // A device that is lost says so at the next tensor.
        let _ = self.device.synchronize();
        if done > 0 {
            self.milliseconds.push((self.last.elapsed().as_secs_f64() * 1e4).round() / 10.0);
        }
        self.last = Instant::now();
        ControlFlow::Continue(())
    }
}

fn host(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.contiguous()
}

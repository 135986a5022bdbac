//! Weights that came through arenas equal those read one by one, whatever the file holds and the net asks for.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};
use marquee::memory::pace::Pace;
use marquee::memory::{Parts, Store, Transfer};
use marquee::models::checkpoint::{Caches, FluxCheckpoint, Replacements};
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::rng::Generator;
use marquee::models::text_encoders::clip::ClipText;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::tiny;
use marquee::models::vae::Vae;
use marquee::models::weights::{
    ALIGNMENT, Layout, Loaded, Meta, Part, Probe, Recipe, Renamed, Safetensors, Source, Weights,
};

pub fn flux(folder: &Path) -> FluxCheckpoint {
    tiny::write(folder, tiny::Family::Dev).unwrap();
    FluxCheckpoint::open(folder.to_str().unwrap(), &Replacements::default(), &Caches::default()).unwrap()
}

pub fn saved(folder: &Path, tensors: &[(&str, Tensor)]) -> Arc<dyn Source> {
    let map: HashMap<String, Tensor> =
        tensors.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.clone())).collect();
    let path = folder.join("saved.safetensors");
    candle_core::safetensors::save(&map, &path).unwrap();
    Arc::new(Safetensors::open(&[path]).map_err(|problems| format!("{problems:?}")).unwrap())
}

pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    Generator::new(seed).randn(shape, DType::F32, &Device::Cpu).unwrap()
}

/// Bits and shape.
pub fn same(found: &Tensor, expected: &Tensor) {
    let numbers = |tensor: &Tensor| -> Vec<u64> {
        let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
        flat.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    };
    assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()));
    assert!(numbers(found) == numbers(expected));
}

/// Everything on the device: by way of main memory, and straight from the files.
pub fn both_ways(store: Store) -> [Weights; 2] {
    let store = Arc::new(store);
    let everything = || {
        let mut parts = Parts::new(&store, &Transfer::new(&Device::Cpu).unwrap());
        parts.bring(&(0..store.pieces().len()).collect::<Vec<_>>(), &|| true).unwrap();
        parts.weights(&[], true).unwrap()
    };
    store.load_host(&Pace::default()).unwrap();
    let by_way = everything();
    store.drop_host();
    [by_way, everything()]
}

fn compare(source: &Arc<dyn Source>, dtype: DType, build: &dyn Fn(&Weights) -> Result<()>) {
    let store = Store::new("net", Arc::clone(source), dtype, &Device::Cpu, build).unwrap();
    let entries = store.layout().entries().to_vec();
    assert!(!entries.is_empty());
    for placed in both_ways(store) {
        for entry in &entries {
            let view = |weights: &Weights| {
                weights.to_dtype(entry.dtype).get(entry.shape.as_slice(), &entry.key).unwrap()
            };
            same(&view(&placed), &view(&Weights::new(Arc::clone(source), dtype, &Device::Cpu)));
        }
        build(&placed).unwrap();
    }
}

/// Larger than a buffer between files and device: one that is read in parts, and two that are not.
#[test]
fn tensors_longer_than_a_buffer_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let wide = noise(&[1300, 1111], 1);
    let source =
        saved(folder.path(), &[("a.weight", wide.clone()), ("b.weight", noise(&[256, 128, 5, 5], 2))]);
    compare(&source, DType::F32, &|w| {
        w.get((1300, 1111), "a.weight")?;
        w.get((256, 128, 5, 5), "b.weight").map(drop)
    });
    // What no file holds as it is.
    let loaded: HashMap<String, Tensor> = HashMap::from([("a.weight".to_owned(), wide)]);
    let loaded: Arc<dyn Source> = Arc::new(loaded);
    compare(&loaded, DType::BF16, &|w| w.get((1300, 1111), "a.weight").map(drop));
}

#[test]
fn every_net_finds_its_weights_in_its_arena() {
    let folder = tempfile::tempdir().unwrap();
    let nets = flux(folder.path());
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let config = &nets.transformer.config;
        compare(&nets.transformer.source, dtype, &|w| Transformer::new(config, w).map(drop));
        compare(&nets.transformer.source, dtype, &|w| Conditioner::new(config, w).map(drop));
        let config = &nets.text_encoder_2.config;
        compare(&nets.text_encoder_2.source, dtype, &|w| T5Encoder::new(config, w).map(drop));
        let config = &nets.text_encoder.config;
        compare(&nets.text_encoder.source, dtype, &|w| ClipText::new(config, w).map(drop));
        compare(&nets.vae.source, dtype, &|w| Vae::new(&nets.vae.config, w).map(drop));
    }
}

#[test]
fn in_f16_the_wide_matrices_of_t5_stay_wide() {
    let folder = tempfile::tempdir().unwrap();
    let net = flux(folder.path()).text_encoder_2;
    let build = |w: &Weights| T5Encoder::new(&net.config, w).map(drop);
    let dtypes = |dtype| {
        Store::new("T5", Arc::clone(&net.source), dtype, &Device::Cpu, build).unwrap().layout().dtypes()
    };
    assert_eq!(dtypes(DType::F16), [DType::F16, DType::F32]);
    assert_eq!(dtypes(DType::BF16), [DType::BF16]);
}

#[test]
fn blocks_are_pieces_and_joined_rows_lie_below_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let net = flux(folder.path()).transformer;
    let build = |w: &Weights| Transformer::new(&net.config, w).map(drop);
    let store = Store::new("FLUX", Arc::clone(&net.source), DType::BF16, &Device::Cpu, build).unwrap();
    let layout = store.layout();
    let names: Vec<&str> = layout.segments().iter().map(|segment| segment.name.as_str()).collect();
    let expected = [
        "",
        "transformer_blocks.0",
        "transformer_blocks.1",
        "single_transformer_blocks.0",
        "single_transformer_blocks.1",
    ];
    assert_eq!(names, expected);
    let blocks: Vec<bool> = layout.segments().iter().map(|segment| segment.is_block).collect();
    assert_eq!(blocks, [false, true, true, true, true]);
    assert_eq!(store.slot(), *store.pieces()[1..].iter().max().unwrap());
    assert_eq!(store.bytes(), store.pieces().iter().sum::<u64>());

    let find = |key: &str| layout.find(key, DType::BF16).unwrap();
    for end in ["weight", "bias"] {
        let parts = ["attn.to_q", "attn.to_k", "attn.to_v"]
            .map(|name| find(&format!("single_transformer_blocks.1.{name}.{end}")));
        assert_eq!(parts[0].offset % ALIGNMENT, 0);
        for pair in parts.windows(2) {
            assert_eq!(pair[0].range().end, pair[1].offset);
        }
    }
    assert_eq!(find("single_transformer_blocks.1.proj_out.weight").offset % ALIGNMENT, 0);
}

#[test]
fn t5_keeps_its_distances_when_block_0_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let net = flux(folder.path()).text_encoder_2;
    let build = |w: &Weights| T5Encoder::new(&net.config, w).map(drop);
    let store = Store::new("T5", Arc::clone(&net.source), DType::F32, &Device::Cpu, build).unwrap();
    let key = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    assert_eq!(store.layout().find(key, DType::F32).unwrap().segment, 0);
}

/// Kernels in channels-last memory, as on a card, and their logical values.
#[test]
fn kernels_lie_channels_last_and_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for file in [DType::F32, DType::BF16] {
        let kernel = noise(&[5, 6, 3, 2], 1).to_dtype(file).unwrap();
        let source = saved(folder.path(), &[("conv.weight", kernel.clone())]);
        for dtype in [DType::F32, DType::F16] {
            let probe = Arc::new(Probe::default());
            Weights::probing_as(&probe, dtype).pp("conv").get_kernel((5, 6, 3, 2), "weight").unwrap();
            let layout = Layout::new(&probe, source.as_ref(), true).unwrap();
            let store = Store::laid_out("net", Arc::clone(&source), layout, dtype, &Device::Cpu);
            for placed in both_ways(store) {
                let found = placed.get_kernel((5, 6, 3, 2), "conv.weight").unwrap();
                same(&found, &kernel.to_dtype(dtype).unwrap());
                assert_eq!(found.stride(), [36, 1, 12, 6]);
            }
        }
    }
}

#[test]
fn every_dtype_becomes_every_other_as_if_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    // Too large for f16, subnormal there, and halfway between two bf16.
    let special = Tensor::new(&[1e30f32, -7e4, 1e-7, 3.0039062, 0.0, -0.0], &Device::Cpu).unwrap();
    let numbers = Tensor::cat(&[&special, &noise(&[1000], 7)], 0).unwrap();
    for file in dtypes {
        let numbers = numbers.to_dtype(file).unwrap();
        let source = saved(folder.path(), &[("x", numbers.clone())]);
        for dtype in dtypes {
            let build = |w: &Weights| w.get(1006, "x").map(drop);
            let store = Store::new("net", Arc::clone(&source), dtype, &Device::Cpu, build).unwrap();
            for placed in both_ways(store) {
                same(&placed.get(1006, "x").unwrap(), &numbers.to_dtype(dtype).unwrap());
            }
        }
    }
}

#[test]
fn renamed_rows_and_scaled_fp8_come_through() {
    let folder = tempfile::tempdir().unwrap();
    let fp8 = noise(&[4, 8], 3).to_dtype(DType::F8E4M3).unwrap();
    let tensors = [
        ("qkv", noise(&[6, 8], 1)),
        ("other", noise(&[1, 8], 2)),
        ("quant.weight", fp8),
        ("quant.scale_weight", Tensor::new(&[0.37f32], &Device::Cpu).unwrap()),
    ];
    let inner = saved(folder.path(), &tensors);
    let part = |key: &str, rows| Part { key: key.to_owned(), rows };
    let recipes = HashMap::from([
        ("k.weight".to_owned(), Recipe::rows("qkv", 2..4)),
        (
            "both.weight".to_owned(),
            Recipe { parts: vec![part("other", None), part("qkv", Some(4..6))], flatten: false },
        ),
        ("quant.weight".to_owned(), Recipe::whole("quant.weight")),
    ]);
    let source: Arc<dyn Source> = Arc::new(Renamed::new(inner, recipes));
    for dtype in [DType::F32, DType::BF16] {
        compare(&source, dtype, &|w| {
            w.pp("k").linear(8, 2, false)?;
            w.pp("both").linear(8, 3, false)?;
            w.pp("quant").linear(8, 4, false).map(drop)
        });
    }
}

#[test]
fn a_file_cut_short_is_named_with_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let source = saved(folder.path(), &[("a.weight", noise(&[300], 1)), ("b.weight", noise(&[300], 2))]);
    let build = |w: &Weights| {
        w.get(300, "a.weight")?;
        w.get(300, "b.weight").map(drop)
    };
    let store = Store::new("net", source, DType::F32, &Device::Cpu, build).unwrap();
    // After opening, when nobody checks its length any more.
    let path = folder.path().join("saved.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    let error = store.load_host(&Pace::default()).unwrap_err().to_string();
    assert!(error.contains("b.weight") && error.contains("saved.safetensors"), "{error}");
    assert!(!store.is_on_host());
}

/// Stops the load that reads from it, once it is told whose pace that is.
struct Stopping {
    inner: Arc<dyn Source>,
    pace: OnceLock<Arc<Pace>>,
}

impl Source for Stopping {
    fn meta(&self, key: &str) -> Option<Meta> {
        self.inner.meta(key)
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        if let Some(pace) = self.pace.get() {
            pace.stop();
        }
        self.inner.load(key, rows, device)
    }

    fn keys(&self) -> Vec<String> {
        self.inner.keys()
    }

    fn origin(&self, key: &str) -> String {
        self.inner.origin(key)
    }
}

#[test]
fn a_stopped_load_leaves_nothing_and_the_next_is_whole() {
    // More tensors than threads.
    let tensors: HashMap<String, Tensor> =
        (0..200).map(|index| (format!("x{index}"), noise(&[30], index))).collect();
    let source = Arc::new(Stopping { inner: Arc::new(tensors), pace: OnceLock::new() });
    let build = |w: &Weights| (0..200).try_for_each(|index| w.get(30, &format!("x{index}")).map(drop));
    let store = Store::new("net", Arc::clone(&source) as Arc<dyn Source>, DType::F32, &Device::Cpu, build);
    let store = store.unwrap();
    store.load_host(&Pace::default()).unwrap();
    assert_eq!((store.loaded_bytes(), store.is_on_host()), (200 * 30 * 4, true));
    store.drop_host();

    let pace = Arc::new(Pace::default());
    source.pace.set(Arc::clone(&pace)).unwrap();
    let error = store.load_host(&pace).unwrap_err().to_string();
    assert!(error.contains("stopped"), "{error}");
    assert!(!store.is_on_host() && store.loaded_bytes() < 200 * 30 * 4);
}

#[test]
fn pieces_come_and_go_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let net = flux(folder.path()).transformer;
    let build = |w: &Weights| Transformer::new(&net.config, w).map(drop);
    let store =
        Arc::new(Store::new("FLUX", Arc::clone(&net.source), DType::F32, &Device::Cpu, build).unwrap());
    let sizes = store.pieces();
    let mut parts = Parts::new(&store, &Transfer::new(&Device::Cpu).unwrap());

    // Without a host copy: out of the files.
    parts.bring(&[0, 1, 3], &|| true).unwrap();
    assert_eq!(parts.bytes(), sizes[0] + sizes[1] + sizes[3]);
    assert_eq!(parts.arrived(), parts.bytes());
    let missing = parts.weights(&[], true).err().unwrap().to_string();
    assert!(missing.contains("piece 2"), "{missing}");

    store.load_host(&Pace::default()).unwrap();
    parts.free(&[1]);
    assert!(!parts.holds(1) && parts.holds(3));
    parts.bring(&[1, 2, 3, 4], &|| true).unwrap();
    store.drop_host();
    let placed = parts.weights(&[], true).unwrap();
    let plain = Weights::new(Arc::clone(&net.source), DType::F32, &Device::Cpu);
    for entry in store.layout().entries() {
        let view = |weights: &Weights| weights.get(entry.shape.as_slice(), &entry.key).unwrap();
        same(&view(&placed), &view(&plain));
    }
}

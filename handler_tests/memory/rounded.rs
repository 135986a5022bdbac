//! Matrices in 8 bits take 8 bits wherever they lie, and are what rounding the tensors themselves gives.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use marquee::memory::pace::Pace;
use marquee::memory::{Parts, Store, Transfer};
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::ops::{Eight, Int8, Linear, Rounding};
use marquee::models::weights::{ALIGNMENT, Content, Entry, Gguf, Part, Recipe, Renamed, Source, Weights};

use super::store::{both_ways, flux, noise, same, saved};
use super::streaming::{input, run, store, streaming};

const BOTH: [Rounding; 2] = [Rounding::E4m3, Rounding::Int8];

/// Numbers and scales of `x` rounded by itself.
fn parts(x: &Tensor, rounding: Rounding) -> (Tensor, Tensor) {
    match rounding {
        Rounding::E4m3 => {
            let eight = Eight::new(x).unwrap();
            (eight.parts().0.clone(), eight.parts().1.clone())
        }
        Rounding::Int8 => {
            let int8 = Int8::new(x).unwrap();
            (int8.parts().0.clone(), int8.parts().1.clone())
        }
    }
}

fn holds(layer: &Linear, x: &Tensor, rounding: Rounding) {
    let (kind, numbers, scales) = layer.rounded().unwrap();
    let expected = parts(x, rounding);
    assert_eq!(kind, rounding);
    same(numbers, &expected.0);
    same(scales, &expected.1);
}

#[test]
fn the_loader_rounds_a_row_as_a_tensor_is_rounded() {
    let folder = tempfile::tempdir().unwrap();
    // More than a thread reads at once; rows of zeros, of tiny and of large numbers.
    let loud = Tensor::new(&[0f32, 1e-6, 3e4, -1.0], &Device::Cpu).unwrap().reshape((4, 1)).unwrap();
    let matrix = noise(&[1040, 4112], 1);
    let first = matrix.narrow(0, 0, 4).unwrap().broadcast_mul(&loud).unwrap();
    let matrix = Tensor::cat(&[&first, &matrix.narrow(0, 4, 1036).unwrap()], 0).unwrap();
    for file in [DType::F32, DType::F16, DType::BF16] {
        let matrix = matrix.to_dtype(file).unwrap();
        let source = saved(folder.path(), &[("x.weight", matrix.clone())]);
        for rounding in BOTH {
            // The compute dtype has no say in the numbers.
            for dtype in [DType::F32, DType::BF16] {
                let layer = |w: &Weights| w.in_eight(Some(rounding)).pp("x").linear(4112, 1040, false);
                let build = |w: &Weights| layer(w).map(drop);
                let store = Store::new("net", Arc::clone(&source), dtype, &Device::Cpu, build).unwrap();
                let numbers = 1040 * 4112;
                let scales = (1040usize * 4).next_multiple_of(ALIGNMENT);
                assert_eq!(store.bytes(), (numbers + scales) as u64);
                for placed in both_ways(store) {
                    holds(&layer(&placed).unwrap(), &matrix, rounding);
                }
                let direct = Weights::new(Arc::clone(&source), dtype, &Device::Cpu);
                holds(&layer(&direct).unwrap(), &matrix, rounding);
            }
        }
    }
}

#[test]
fn joined_renamed_and_scaled_rows_come_through_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let scale = 0.37f32;
    let fp8 = noise(&[16, 32], 3).to_dtype(DType::F8E4M3).unwrap();
    let (qkv, other) = (noise(&[40, 32], 1), noise(&[8, 32], 2).to_dtype(DType::BF16).unwrap());
    let tensors = [
        ("qkv", qkv.clone()),
        ("other", other.clone()),
        ("quant.weight", fp8.clone()),
        ("quant.scale_weight", Tensor::new(&[scale], &Device::Cpu).unwrap()),
        ("odd.weight", noise(&[8, 32], 4)),
        ("q.bias", noise(&[24], 5)),
        ("k.bias", noise(&[24], 6)),
    ];
    let part = |key: &str, rows| Part { key: key.to_owned(), rows };
    let whole = |key: &str| (key.to_owned(), Recipe::whole(key));
    let recipes = HashMap::from([
        ("q.weight".to_owned(), Recipe::rows("qkv", 16..40)),
        (
            "k.weight".to_owned(),
            Recipe { parts: vec![part("other", None), part("qkv", Some(0..16))], flatten: false },
        ),
        whole("quant.weight"),
        whole("odd.weight"),
        whole("q.bias"),
        whole("k.bias"),
    ]);
    let source: Arc<dyn Source> = Arc::new(Renamed::new(saved(folder.path(), &tensors), recipes));
    let wide = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    let rows = |first, count| qkv.narrow(0, first, count).unwrap();
    let joined = Tensor::cat(&[rows(16, 24), wide(&other), rows(0, 16)], 0).unwrap();
    let scaled = (wide(&fp8) * f64::from(scale)).unwrap();
    for rounding in BOTH {
        for dtype in [DType::F32, DType::BF16] {
            let build = |w: &Weights| {
                let w = w.in_eight(Some(rounding));
                let both = w.fused_linear(32, &[("q", 24), ("k", 24)], true)?;
                Ok([both, w.pp("quant").linear(32, 16, false)?, w.pp("odd").linear(32, 8, false)?])
            };
            let store =
                Store::new("net", Arc::clone(&source), dtype, &Device::Cpu, |w| build(w).map(drop)).unwrap();
            let entry = |key: &str| store.layout().find_rounded(key, rounding);
            let ((q, q_scales), (k, k_scales)) = (entry("q.weight").unwrap(), entry("k.weight").unwrap());
            assert_eq!((q.range().end, q_scales.range().end), (k.offset, k_scales.offset));
            // 8 rows are no multiple of 16.
            assert!(entry("odd.weight").is_none());
            for placed in both_ways(store) {
                let [both, quant, odd] = build(&placed).unwrap();
                holds(&both, &joined, rounding);
                holds(&quant, &scaled, rounding);
                assert!(odd.rounded().is_none());
                let bias = Tensor::cat(&[&tensors[5].1, &tensors[6].1], 0).unwrap().to_dtype(dtype).unwrap();
                same(both.bias().unwrap(), &bias);
            }
        }
    }
}

#[test]
fn ggml_blocks_stay_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let blocks = QTensor::quantize(&noise(&[32, 64], 1), GgmlDType::Q8_0).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    gguf_file::write(&mut file, &[], &[("x.weight", &blocks)]).unwrap();
    let source: Arc<dyn Source> = Arc::new(Gguf::open(&path).map_err(|_| "not a GGUF file").unwrap());
    let layer = |w: &Weights| w.in_eight(Some(Rounding::Int8)).pp("x").linear(64, 32, false);
    let store = Store::new("net", source, DType::F32, &Device::Cpu, |w| layer(w).map(drop)).unwrap();
    assert_eq!((store.host_bytes(), store.bytes()), (0, blocks.storage_size_in_bytes() as u64));
    for placed in both_ways(store) {
        assert!(layer(&placed).unwrap().rounded().is_none());
    }
}

#[test]
fn a_transformer_in_8_bits_takes_half_and_predicts_what_its_rounded_twin_does() {
    let folder = tempfile::tempdir().unwrap();
    let files = flux(folder.path()).transformer;
    let config = &files.config;
    let source = |dtype| Weights::new(Arc::clone(&files.source), dtype, &Device::Cpu);
    let input = input(config, &Conditioner::new(config, &source(DType::F32)).unwrap());
    let dense = run(&Transformer::new(config, &source(DType::F32)).unwrap(), &input, None).unwrap();
    let plain = store(&files.source, &|w| Transformer::new(config, w).map(drop));
    for rounding in BOTH {
        let build = |w: &Weights| Transformer::new(config, &w.in_eight(Some(rounding)));
        let expected = run(&build(&source(DType::F32)).unwrap(), &input, None).unwrap();
        let kept = store(&files.source, &|w| build(w).map(drop));
        for streamed in [&[][..], &[1, 2, 3, 4], &[1, 3]] {
            let net = build(&streaming(&kept, streamed, true)).unwrap();
            same(&run(&net, &input, None).unwrap(), &expected);
        }
        let changed = (&expected - &dense).unwrap().abs().unwrap().max_all().unwrap();
        assert!(changed.to_scalar::<f32>().unwrap() > 0.0);

        // Every matrix of the blocks is there once, a byte a number and no wider copy of it; nothing else is.
        let (mut matrices, mut rest) = (0, 0);
        for entry in kept.layout().entries() {
            let in_blocks = entry.key.contains("transformer_blocks") && entry.shape.len() == 2;
            match entry.content {
                Content::Numbers(kind) => {
                    assert!(kind == rounding && in_blocks);
                    matrices += entry.bytes();
                }
                Content::Scales(_) => {}
                Content::Whole => {
                    assert!(!in_blocks, "{}", entry.key);
                    rest += 1;
                }
            }
        }
        assert!(matrices > 0 && rest > 0);
        let wide: usize = plain.layout().entries().iter().map(Entry::bytes).sum();
        let narrow: usize = kept.layout().entries().iter().map(Entry::bytes).sum();
        let scales: usize = kept
            .layout()
            .entries()
            .iter()
            .filter_map(|entry| matches!(entry.content, Content::Scales(_)).then_some(entry.bytes()))
            .sum();
        assert_eq!(wide - narrow, 3 * matrices - scales, "f32 to 8 bits");
        // Device and host hold what the layout says.
        let mut parts = Parts::new(&kept, &Transfer::new(&Device::Cpu).unwrap());
        parts.bring(&(0..kept.pieces().len()).collect::<Vec<_>>(), &|| true).unwrap();
        assert_eq!((parts.bytes(), kept.host_bytes()), (kept.bytes(), kept.bytes()));
        kept.load_host(&Pace::default()).unwrap();
        assert_eq!(kept.loaded_bytes(), narrow as u64);
        assert!(kept.slot() < plain.slot() / 2);
    }
}

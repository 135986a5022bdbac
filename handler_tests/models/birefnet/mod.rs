//! BiRefNet against the original code, torch and Pillow, and its parts against plain arithmetic.

mod checkpoint;
mod deform_conv;
mod layers;
mod net;
mod pictures;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use marquee::models::birefnet::{BiRefNetConfig, SwinConfig};
use marquee::models::rng::Generator;
use marquee::models::weights::Weights;
use serde::Deserialize;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens/birefnet")
}

/// The golden of the original repository; its format is told in the folder's README.
struct Golden {
    manifest: Manifest,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Manifest {
    backbone: SwinConfig,
    inputs: HashMap<String, Input>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Input {
    shape: Vec<usize>,
    seed: u64,
}

#[derive(Deserialize)]
struct Weight {
    key: String,
    shape: Vec<usize>,
    seed: u64,
    kind: String,
    scale: f64,
    shift: f64,
}

impl Golden {
    fn open() -> Self {
        let text = std::fs::read(folder().join("manifest.json")).unwrap();
        Self { manifest: serde_json::from_slice(&text).unwrap(), tensors: tensors("golden.safetensors") }
    }

    fn config(&self) -> BiRefNetConfig {
        BiRefNetConfig { backbone: self.manifest.backbone.clone(), ..BiRefNetConfig::default() }
    }

    fn map(&self) -> HashMap<String, Tensor> {
        let value = |weight: &Weight| {
            let drawn = randn(&weight.shape, weight.seed);
            let drawn = match weight.kind.as_str() {
                "randn" => drawn,
                "abs_randn" => drawn.abs().unwrap(),
                other => panic!("{}: unknown kind {other}", weight.key),
            };
            (weight.key.clone(), drawn.affine(weight.scale, weight.shift).unwrap())
        };
        self.manifest.weights.iter().map(value).collect()
    }

    fn weights(&self, dtype: DType) -> Weights {
        Weights::from_map(self.map(), dtype, &Device::Cpu)
    }

    /// The input `tag`, checked against the values that were stored of it.
    fn input(&self, tag: &str) -> Tensor {
        let Input { shape, seed } = &self.manifest.inputs[tag];
        let x = randn(shape, *seed);
        let head = x.flatten_all().unwrap().narrow(0, 0, 64).unwrap();
        assert_eq!(floats(&head), floats(&self.tensors[&format!("{tag}.input_head")]), "{tag}: generator");
        x
    }

    fn close(&self, key: &str, found: &Tensor, bound: f64) {
        close(key, found, &self.tensors[key], bound);
    }
}

fn tensors(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join(file), &Device::Cpu).unwrap()
}

fn randn(shape: &[usize], seed: u64) -> Tensor {
    Generator::new(seed).randn(shape, DType::F32, &Device::Cpu).unwrap()
}

fn floats(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Greatest difference over the greatest expected value.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims(), "shape");
    let (found, expected) = (floats(found), floats(expected));
    let size = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    // `max` would drop a NaN.
    assert!(found.iter().all(|x| x.is_finite()), "not finite");
    found.iter().zip(&expected).fold(0f64, |most, (a, b)| most.max((a - b).abs())) / size
}

fn close(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    let error = error(found, expected);
    assert!(error <= bound, "{what}: relative error {error:e}, at most {bound:e}");
}

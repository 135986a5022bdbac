//! BiRefNet against the original code, torch and Pillow, and its parts against plain arithmetic.

mod checkpoint;
mod deform_conv;
mod layers;
mod net;
mod pictures;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use marquee::models::birefnet::BiRefNetConfig;
use marquee::models::rng::Generator;
use marquee::models::weights::Weights;
use serde::Deserialize;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens/birefnet")
}

/// The golden of the original repository; its format is told in the goldens' README. `models::parity` holds every stage
/// against it; here are the questions that it does not ask.
struct Golden {
    config: BiRefNetConfig,
    weights: Vec<Weight>,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Weight {
    key: String,
    shape: Vec<usize>,
    seed: u64,
    #[serde(default)]
    kind: Option<String>,
    scale: f64,
    shift: f64,
}

impl Golden {
    fn open() -> Self {
        let text = std::fs::read(folder().join("manifest.json")).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let net = &mut manifest["components"]["birefnet"];
        Self {
            config: serde_json::from_value(net["config"].take()).unwrap(),
            weights: serde_json::from_value(net["weights"].take()).unwrap(),
            tensors: candle_core::safetensors::load(folder().join("golden.safetensors"), &Device::Cpu)
                .unwrap(),
        }
    }

    fn map(&self) -> HashMap<String, Tensor> {
        let value = |weight: &Weight| {
            let drawn = randn(&weight.shape, weight.seed);
            let drawn = match weight.kind.as_deref() {
                None => drawn,
                Some("abs_randn") => drawn.abs().unwrap(),
                Some(other) => panic!("{}: unknown kind {other}", weight.key),
            };
            (weight.key.clone(), drawn.affine(weight.scale, weight.shift).unwrap())
        };
        self.weights.iter().map(value).collect()
    }

    fn weights(&self, dtype: DType) -> Weights {
        Weights::from_map(self.map(), dtype, &Device::Cpu)
    }

    fn tensor(&self, key: &str) -> &Tensor {
        &self.tensors[key]
    }

    fn close(&self, key: &str, found: &Tensor, bound: f64) {
        close(key, found, self.tensor(key), bound);
    }
}

/// The input of the case `wide`.
fn wide() -> Tensor {
    randn(&[1, 3, 128, 160], 1128)
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

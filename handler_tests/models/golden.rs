//! Reads the golden folders (format: `handler_tests/goldens/README.md`) and compares stages.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use marquee::models::rng::Generator;
use marquee::models::weights::Weights;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens")
}

#[derive(Deserialize)]
pub struct Component {
    pub config: serde_json::Value,
    #[serde(default)]
    weights: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    key: String,
    shape: Vec<usize>,
    seed: u64,
    scale: f64,
    shift: f64,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case")]
enum Input {
    Tensor(String),
    Randn { shape: Vec<usize>, seed: u64 },
}

#[derive(Deserialize, Clone)]
pub struct Case {
    pub name: String,
    pub kind: String,
    pub components: HashMap<String, String>,
    pub parameters: serde_json::Value,
    inputs: HashMap<String, Input>,
    pub expected: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    format: String,
    components: HashMap<String, Component>,
    cases: Vec<Case>,
}

pub struct Goldens {
    manifest: Manifest,
    tensors: HashMap<String, Tensor>,
}

impl Goldens {
    pub fn open(name: &str) -> Self {
        let folder = folder().join(name);
        let manifest: Manifest =
            serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest.format, "marquee-goldens/1");
        let tensors =
            candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        Self { manifest, tensors }
    }

    pub fn cases(&self, kind: &str) -> Vec<Case> {
        let cases: Vec<_> = self.manifest.cases.iter().filter(|case| case.kind == kind).cloned().collect();
        assert!(!cases.is_empty(), "no golden of kind {kind}");
        cases
    }

    pub fn component(&self, case: &Case, role: &str) -> &Component {
        &self.manifest.components[&case.components[role]]
    }

    pub fn input(&self, case: &Case, role: &str) -> Tensor {
        match &case.inputs[role] {
            Input::Tensor(key) => self.tensors[key].clone(),
            Input::Randn { shape, seed } => {
                Generator::new(*seed).randn(shape.as_slice(), DType::F32, &Device::Cpu).unwrap()
            }
        }
    }

    /// Relative error in the L2 norm, at most `bound`.
    pub fn close(&self, case: &Case, stage: &str, found: &Tensor, bound: f64) {
        let expected = &self.tensors[&case.expected[stage]];
        assert_eq!(found.dims(), expected.dims(), "{} {stage}: shape", case.name);
        let flat =
            |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let (found, expected) = (flat(found), flat(expected));
        let size: f64 = expected.iter().map(|x| x * x).sum();
        let miss: f64 = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
        let error = (miss / size).sqrt();
        assert!(error <= bound, "{} {stage}: relative error {error:e}, at most {bound:e}", case.name);
    }
}

impl Component {
    pub fn config<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.config.clone()).unwrap()
    }

    /// The described weights, in `dtype`.
    pub fn weights(&self, dtype: DType) -> Weights {
        Weights::from_map(self.tensors(), dtype, &Device::Cpu)
    }

    /// The described weights by key, f32.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.weights
            .iter()
            .map(|w| {
                let drawn =
                    Generator::new(w.seed).randn(w.shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
                (w.key.clone(), drawn.affine(w.scale, w.shift).unwrap())
            })
            .collect()
    }
}

pub fn id_rows(ids: &Tensor) -> Vec<Vec<u32>> {
    ids.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

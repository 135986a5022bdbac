//! A golden folder: the manifest, the tensors, weights and inputs drawn from their seeds.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Error, Result, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ParityError;
use crate::models::rng::Generator;
use crate::models::weights::Weights;

const FORMAT: &str = "marquee-goldens/1";

#[derive(Deserialize)]
struct Manifest {
    format: String,
    #[serde(default)]
    components: HashMap<String, Component>,
    cases: Vec<Case>,
}

/// A net or scheduler.
#[derive(Deserialize)]
pub(super) struct Component {
    config: Value,
    #[serde(default)]
    weights: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    key: String,
    shape: Vec<usize>,
    seed: u64,
    #[serde(default)]
    kind: Draw,
    scale: f64,
    shift: f64,
}

/// What is made of a weight's draw before it is scaled.
#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Draw {
    #[default]
    Randn,
    /// Its absolute value: variances.
    AbsRandn,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Input {
    Tensor(String),
    Randn { shape: Vec<usize>, seed: u64 },
}

/// One run of the original.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) kind: String,
    #[serde(default)]
    components: HashMap<String, String>,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    inputs: HashMap<String, Input>,
    /// Stage to tensor key, in the order of the manifest.
    #[serde(deserialize_with = "pairs")]
    pub(super) expected: Vec<(String, String)>,
}

fn pairs<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Vec<(String, String)>, D::Error> {
    let map = Map::deserialize(from)?;
    map.into_iter()
        .map(|(stage, key)| match key {
            Value::String(key) => Ok((stage, key)),
            other => {
                Err(serde::de::Error::custom(format!("{stage}: expected a tensor's name, found {other}")))
            }
        })
        .collect()
}

/// An opened folder.
pub(super) struct Golden {
    manifest: Manifest,
    tensors: HashMap<String, Tensor>,
    device: Device,
}

/// A reason for a miss.
pub(super) fn miss(reason: impl Into<String>) -> Error {
    Error::Msg(reason.into())
}

impl Golden {
    pub(super) fn open(folder: &Path, device: &Device) -> std::result::Result<Self, ParityError> {
        let broken = |file: &str, expected: &str, found: String| ParityError::Folder {
            path: folder.join(file),
            expected: expected.to_owned(),
            found,
        };
        let text = std::fs::read(folder.join("manifest.json"))
            .map_err(|error| broken("manifest.json", "a readable file", error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| broken("manifest.json", "a golden folder's manifest", error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(broken("manifest.json", FORMAT, manifest.format));
        }
        let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu)
            .map_err(|error| broken("golden.safetensors", "readable tensors", error.to_string()))?;
        Ok(Self { manifest, tensors, device: device.clone() })
    }

    /// Where everything is computed.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn cases(&self) -> &[Case] {
        &self.manifest.cases
    }

    pub(super) fn tensor(&self, key: &str) -> Result<&Tensor> {
        self.tensors.get(key).ok_or_else(|| miss(format!("golden.safetensors has no {key}")))
    }

    /// The configuration and weights of the component in `role`.
    pub(super) fn net<C: DeserializeOwned>(&self, case: &Case, role: &str) -> Result<(C, Weights)> {
        let name = case.components.get(role).ok_or_else(|| miss(format!("the case names no {role}")))?;
        let component =
            self.manifest.components.get(name).ok_or_else(|| miss(format!("no component {name:?}")))?;
        let config = serde_json::from_value(component.config.clone())
            .map_err(|error| miss(format!("configuration of {name}: {error}")))?;
        Ok((config, component.weights(&self.device)?))
    }

    /// Whether the case has an input in `role`.
    pub(super) fn has(case: &Case, role: &str) -> bool {
        case.inputs.contains_key(role)
    }

    pub(super) fn input(&self, case: &Case, role: &str) -> Result<Tensor> {
        match case.inputs.get(role) {
            Some(Input::Tensor(key)) => self.tensor(key)?.to_device(&self.device),
            Some(Input::Randn { shape, seed }) => {
                Generator::new(*seed).randn(shape.as_slice(), DType::F32, &self.device)
            }
            None => Err(miss(format!("the case has no input {role}"))),
        }
    }

    /// Token ids, a row a prompt.
    pub(super) fn ids(&self, case: &Case, role: &str) -> Result<Vec<Vec<u32>>> {
        self.input(case, role)?.to_dtype(DType::U32)?.to_vec2()
    }
}

impl Component {
    fn weights(&self, device: &Device) -> Result<Weights> {
        let mut map = HashMap::with_capacity(self.weights.len());
        for Described { key, shape, seed, kind, scale, shift } in &self.weights {
            let drawn = Generator::new(*seed).randn(shape.as_slice(), DType::F32, &Device::Cpu)?;
            let drawn = match kind {
                Draw::Randn => drawn,
                Draw::AbsRandn => drawn.abs()?,
            };
            map.insert(key.clone(), drawn.affine(*scale, *shift)?);
        }
        Ok(Weights::from_map(map, DType::F32, device))
    }
}

impl Case {
    /// All parameters at once.
    pub(super) fn parameters<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.parameters.clone()).map_err(|error| miss(format!("parameters: {error}")))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64> {
        self.optional(name).ok_or_else(|| miss(format!("the case has no number {name}")))
    }

    pub(super) fn optional(&self, name: &str) -> Option<f64> {
        self.parameters.get(name).and_then(Value::as_f64)
    }

    /// A whole number; seeds use all 64 bits.
    pub(super) fn whole(&self, name: &str) -> Result<u64> {
        self.parameters
            .get(name)
            .and_then(Value::as_u64)
            .ok_or_else(|| miss(format!("the case has no whole number {name}")))
    }
}

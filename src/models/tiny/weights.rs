//! Random weights for whatever a net asks for, and the files they go into.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};
use serde_json::{Map, Value, json};

use crate::models::rng::Generator;
use crate::models::weights::{Probe, Weights, fnv, spread};

/// Every tensor that `build` asks for, by key with `prefix`, f32. Sizes keep activations near 1 through any number of layers.
pub(super) fn drawn(
    net: &str,
    prefix: &str,
    build: impl Fn(&Weights) -> Result<()>,
) -> Result<BTreeMap<String, Tensor>> {
    let probe = Arc::new(Probe::default());
    build(&Weights::probing(&probe))?;
    probe
        .expected()
        .into_iter()
        .map(|expected| {
            let (scale, shift) = spread(&expected.key, &expected.shape);
            let seed = fnv(&format!("{net}/{}", expected.key));
            let tensor = Generator::new(seed)
                .randn(expected.shape.as_slice(), DType::F32, &Device::Cpu)?
                .affine(scale, shift)?;
            // The one tensor of a CLIP that published files keep outside of the prefix.
            let prefix = if expected.key == "text_projection.weight" { "" } else { prefix };
            Ok((format!("{prefix}{}", expected.key), tensor))
        })
        .collect()
}

/// Writes `tensors` in `shards` files, and gives the index that several need.
pub(super) fn save(
    tensors: &BTreeMap<String, Tensor>,
    folder: &Path,
    stem: &str,
    shards: usize,
) -> Result<Option<Value>> {
    let size = tensors.len().div_ceil(shards.max(1)).max(1);
    let mut map = Map::new();
    let mut total = 0;
    let all: Vec<_> = tensors.iter().collect();
    for (number, part) in all.chunks(size).enumerate() {
        let name = if shards > 1 {
            format!("{stem}-{:05}-of-{:05}.safetensors", number + 1, all.len().div_ceil(size))
        } else {
            format!("{stem}.safetensors")
        };
        for (key, tensor) in part {
            map.insert((*key).clone(), Value::String(name.clone()));
            total += tensor.elem_count() * tensor.dtype().size_in_bytes();
        }
        let part: HashMap<&str, Tensor> =
            part.iter().map(|(key, tensor)| (key.as_str(), (*tensor).clone())).collect();
        let path = folder.join(name);
        candle_core::safetensors::save(&part, &path)
            .map_err(|error| Error::Msg(format!("{}: {error}", path.display())))?;
    }
    Ok((shards > 1).then(|| json!({ "metadata": { "total_size": total }, "weight_map": map })))
}

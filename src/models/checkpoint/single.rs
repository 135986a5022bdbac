//! A net's files as one source: a folder of shards, one safetensors file, a GGUF.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::CheckpointError;
use crate::models::weights::{Gguf, Safetensors, Source};

/// Opens a file by its ending, or a folder by its index.
pub(super) fn open(path: &Path) -> Result<Arc<dyn Source>, CheckpointError> {
    if path.is_dir() {
        return Ok(Arc::new(Safetensors::open(&shards(path)?)?));
    }
    match path.extension().and_then(|end| end.to_str()) {
        Some("gguf") => Ok(Arc::new(Gguf::open(path)?)),
        Some("safetensors" | "sft") => Ok(Arc::new(Safetensors::open(&[path.to_owned()])?)),
        _ => Err(CheckpointError::layout(
            path,
            "a folder, a .safetensors or a .gguf file",
            if path.exists() { "another kind of file" } else { "nothing" },
        )),
    }
}

/// The files that an index names, or the only weights file.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(|error| CheckpointError::layout(folder, "a readable folder", error.to_string()))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    if let Some(index) = names.iter().find(|name| name.ends_with(".safetensors.index.json")) {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: std::collections::HashMap<String, String>,
        }
        let index: Index = json(&folder.join(index))?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        return Ok(files.into_iter().map(|file| folder.join(file)).collect());
    }
    for name in ["diffusion_pytorch_model.safetensors", "model.safetensors"] {
        if names.iter().any(|found| found == name) {
            return Ok(vec![folder.join(name)]);
        }
    }
    names.retain(|name| name.ends_with(".safetensors"));
    match names.as_slice() {
        [name] => Ok(vec![folder.join(name)]),
        found => Err(CheckpointError::layout(
            folder,
            "model.safetensors, diffusion_pytorch_model.safetensors, or an index of shards",
            format!("{} safetensors files and no index", found.len()),
        )),
    }
}

/// Reads a JSON file.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = std::fs::read(path)
        .map_err(|error| CheckpointError::layout(path, "a readable JSON file", error.to_string()))?;
    serde_json::from_slice(&text)
        .map_err(|error| CheckpointError::layout(path, "the fields of its class", error.to_string()))
}

//! Which files of a repository the worker reads.
//!
//! Published repositories hold the same weights several times: shards and one file, f32 and f16, safetensors, pickles, Flax,
//! ONNX, OpenVINO. FLUX.1-dev is 58 GB with its single-file copies and 34 GB without.

use super::listing::RemoteFile;

/// Folders of a pipeline that hold nets or vocabularies.
const PARTS: [&str; 8] =
    ["transformer", "unet", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2", "scheduler"];
/// How the libraries name a net's weights; other names beside them are copies in other layouts.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// The variant that is worth fetching: half the bytes, and what the nets compute in.
const HALF: &str = "fp16";

/// The files that are read: of a pipeline (`model_index.json`) its parts, of a lone net configuration and weights at the
/// root. Where weights exist in f16 as well, only those; SDXL and ControlNet compute in f16.
pub fn wanted(files: &[RemoteFile]) -> Vec<RemoteFile> {
    let pipeline = files.iter().any(|file| file.path == "model_index.json");
    let mut chosen: Vec<RemoteFile> = Vec::new();
    if pipeline {
        chosen.extend(files.iter().filter(|file| file.path == "model_index.json").cloned());
        for part in PARTS {
            chosen.extend(of_folder(files, part));
        }
    } else {
        chosen.extend(of_folder(files, ""));
    }
    chosen
}

/// What is read directly in `folder` ("" is the root).
fn of_folder(files: &[RemoteFile], folder: &str) -> Vec<RemoteFile> {
    let inside = |file: &RemoteFile| match file.path.rsplit_once('/') {
        Some((parent, _)) => parent == folder,
        None => folder.is_empty(),
    };
    let inside: Vec<&RemoteFile> = files.iter().filter(|file| inside(file)).collect();
    let weights: Vec<&RemoteFile> = inside.iter().copied().filter(|file| is_weights(name(file))).collect();
    let named = |file: &&&RemoteFile| STEMS.iter().any(|stem| name(file).starts_with(stem));
    let usual: Vec<&RemoteFile> = weights.iter().filter(named).copied().collect();
    let weights = if usual.is_empty() { weights } else { usual };
    let half = weights.iter().any(|file| variant(name(file)) == Some(HALF));
    let kept = |file: &&RemoteFile| variant(name(file)) == half.then_some(HALF);
    inside
        .iter()
        .copied()
        .filter(|file| is_vocabulary_or_configuration(name(file)))
        .chain(weights.into_iter().filter(kept))
        .cloned()
        .collect()
}

fn name(file: &RemoteFile) -> &str {
    file.path.rsplit('/').next().unwrap_or_default()
}

/// Weights or the index of their shards: `model-00001-of-00002.safetensors`, `model.safetensors.index.json`,
/// `model.safetensors.index.fp16.json`.
fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || is_index(name)
}

fn is_index(name: &str) -> bool {
    name.contains(".safetensors.index.") && name.ends_with(".json")
}

fn is_vocabulary_or_configuration(name: &str) -> bool {
    let weights_index = name.contains(".index.");
    (name.ends_with(".json") && !weights_index) || name == "merges.txt" || name == "spiece.model"
}

/// The variant that a file's name states: between the stem and what follows it.
fn variant(name: &str) -> Option<&str> {
    let stated = if is_index(name) {
        name.strip_suffix(".json")?.split_once(".safetensors.index")?.1.strip_prefix('.')?
    } else {
        name.strip_suffix(".safetensors")?.split_once('.')?.1
    };
    // A shard's number comes after the variant.
    stated.split('-').next()
}

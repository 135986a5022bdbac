//! BiRefNet's folder: `config.json` beside `model.safetensors`, as published.

use super::components::{NetFiles, compare};
use super::{Caches, CheckpointError, Location, locate, single};
use crate::models::birefnet::{BiRefNet, BiRefNetConfig};

/// Opens `model` (a folder, or a Hub id in one of `caches`) and checks every tensor. What only training uses may be there.
///
/// # Errors
/// [`CheckpointError`]; tensors are reported all at once. A smaller release (another encoder) is told by its shapes.
pub fn open_birefnet(model: &str, caches: &Caches) -> Result<NetFiles<BiRefNetConfig>, CheckpointError> {
    let folder = match locate(model, caches)? {
        Location::Folder(folder) => folder,
        Location::File(file) => {
            return Err(CheckpointError::layout(
                &file,
                "the folder with config.json and model.safetensors",
                "a file",
            ));
        }
    };
    let source = single::open(&folder)?;
    let config: BiRefNetConfig = single::json(&folder.join("config.json"))?;
    let problems = compare(&folder, &source, BiRefNet::ignores, |w| BiRefNet::new(&config, w).map(drop))?;
    if problems.is_empty() { Ok(NetFiles { config, source }) } else { Err(problems.into()) }
}

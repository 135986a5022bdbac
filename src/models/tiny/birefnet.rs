//! The tiny BiRefNet.

use std::path::Path;

use candle_core::DType;

use super::TinyError;
use crate::models::birefnet::{BiRefNetConfig, SwinConfig, write_random_checkpoint};

/// Writes a model in BiRefNet's layout into `folder`, f16 as published, for pictures of 128 x 128; see [`super::write`]. Offsets of
/// its deformable convolutions reach pixels beside their regular places, and its batch norms change what they see, unlike an
/// untrained net's.
///
/// # Errors
/// The folder cannot be written.
pub fn write_birefnet(folder: &Path) -> Result<(), TinyError> {
    let backbone =
        SwinConfig { embed_dim: 12, depths: [2, 2, 2, 2], num_heads: [1, 2, 4, 8], window_size: 12 };
    let config = BiRefNetConfig { backbone, size: 128, ..BiRefNetConfig::default() };
    std::fs::create_dir_all(folder).map_err(|source| TinyError::Write { path: folder.to_owned(), source })?;
    write_random_checkpoint(&config, DType::F16, 1, folder)
        .map_err(|source| TinyError::Net { net: "BiRefNet", source })
}

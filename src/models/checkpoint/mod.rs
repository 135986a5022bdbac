//! Finding a checkpoint, opening it whatever its layout, and checking every tensor before one of them is loaded.
//!
//! Knows file layouts and names; must not know steps, prompts or memory policy. Callers: the engine, `generate`.

mod bfl;
mod birefnet;
mod check;
mod components;
mod ldm;
mod locate;
mod sdxl;
mod single;
mod t5_gguf;

pub use birefnet::open_birefnet;
pub use check::check;
pub use components::{FluxCheckpoint, NetFiles, Replacements};
pub use locate::{Caches, Location, locate};
pub use sdxl::{SdxlCheckpoint, SdxlControlNet};

use std::path::{Path, PathBuf};

use crate::models::weights::Problem;

/// Why a checkpoint cannot be used. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a path nor a model in a cache.
    #[error("model {model:?} not found; looked at {}.{hint}", list(searched))]
    NotFound {
        /// As configured.
        model: String,
        /// Every place, in order.
        searched: Vec<PathBuf>,
        /// What to do, with a leading blank.
        hint: String,
    },
    /// A file or folder is not what its place demands.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Layout {
        /// Where.
        path: PathBuf,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Tensors are missing, cut short, misshapen, of a wrong type, or left over.
    #[error("{} problem{} in the checkpoint:\n{}", problems.len(), if problems.len() == 1 { "" } else { "s" }, lines(problems))]
    Tensors {
        /// All of them.
        problems: Vec<Problem>,
    },
}

impl CheckpointError {
    pub(crate) fn layout(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), expected: expected.into(), found: found.into() }
    }
}

impl From<Vec<Problem>> for CheckpointError {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Tensors { problems }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

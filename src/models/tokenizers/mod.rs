//! Prompts to token ids, equal to transformers' fast tokenizers, from the files that a checkpoint ships.
//!
//! Both give ids of a fixed length: cut to it with the end token kept, or padded. Must not know the encoders.
//! Callers: the pipelines.

mod clip;
mod settings;
mod t5;

use std::path::PathBuf;

use thiserror::Error;

pub use clip::Clip;
pub use t5::T5;

/// A prompt's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Exactly the asked-for length.
    pub ids: Vec<u32>,
    /// How many ids of the prompt did not fit and were left out.
    pub dropped: usize,
}

/// Why a prompt cannot become ids.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file that the layout calls for.
    #[error("{path}: {source}; a checkpoint's {layout}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
        /// What the folder should hold.
        layout: &'static str,
    },
    /// Only the form that needs SentencePiece.
    #[error(
        "{folder}: has spiece.model but no tokenizer.json, which is what is read; save the tokenizer once with \
         transformers (`T5TokenizerFast.from_pretrained(…).save_pretrained(…)`) and put its tokenizer.json there"
    )]
    SentencePieceOnly {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that is not what its name says.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A length that leaves no room.
    #[error("token length {found}: expected at least {least}, so that the special tokens fit")]
    Length {
        /// Asked for.
        found: usize,
        /// Smallest that works.
        least: usize,
    },
    /// The library gave up on a text.
    #[error("prompt cannot be tokenised: {0}")]
    Encode(String),
}

/// Cuts to `length` with `end` kept as the last id, or pads.
fn fit(mut ids: Vec<u32>, end: u32, pad: u32, length: usize) -> Tokens {
    let dropped = ids.len().saturating_sub(length);
    if dropped > 0 {
        ids.truncate(length - 1);
        ids.push(end);
    }
    ids.resize(length, pad);
    Tokens { ids, dropped }
}

//! Why a sampler made no picture: one error for FLUX and SDXL.
//!
//! Must not know steps or jobs; the engine's `fault` says what it means for one.

use super::schedulers::ScheduleError;
use super::tokenizers::TokenizerError;

/// Why no picture was made.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The watcher said so.
    #[error("stopped before step {step} of {steps}")]
    Stopped {
        /// First step that did not run, from 1.
        step: u32,
        /// Steps asked for.
        steps: u32,
    },
    /// A denoising ended in latents that are infinite or not numbers.
    #[error(
        "{net} left {found} of {all} latents that are no finite numbers; if another seed does the same, the checkpoint is damaged \
         (`marquee models check`) or overflows {dtype} (DTYPE=f32 does not); if it comes and goes, suspect the card"
    )]
    NotNumbers {
        /// Which net.
        net: &'static str,
        /// Latents that are not.
        found: usize,
        /// Latents of the picture.
        all: usize,
        /// What it computed in.
        dtype: &'static str,
    },
    /// The request does not fit the model.
    #[error("{0}")]
    Unfit(String),
    /// Steps or strength out of range.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A prompt could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A tensor operation failed: no room on the device, a shape that does not match.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

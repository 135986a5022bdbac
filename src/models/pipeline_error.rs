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

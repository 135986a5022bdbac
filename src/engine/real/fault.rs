//! What went wrong in a net, a sampler or memory, and what it means for the job. The only place that decides it.

use candle_core::Device;

use crate::engine::EngineError;
use crate::imaging::typeset::TypesetError;
use crate::job::StopReason;
use crate::memory::MemoryError;
use crate::models::PipelineError;
use crate::models::checkpoint::CheckpointError;
use crate::models::device;
use crate::models::tokenizers::TokenizerError;
use crate::progress::SubStep;

pub use crate::memory::fault::{Condition, condition};

/// Anything that ends a piece of work, before it is known what that means.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The job was told to stop.
    #[error("stopped: {0}")]
    Stopped(StopReason),
    /// A sampler gave up.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A net could not be brought in.
    #[error(transparent)]
    Memory(Box<MemoryError>),
    /// A prompt could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The phrase could not be set.
    #[error(transparent)]
    Typeset(#[from] TypesetError),
    /// The engine contradicts its own itinerary.
    #[error("{0}; please report this")]
    Defect(String),
}

impl From<MemoryError> for Fault {
    fn from(error: MemoryError) -> Self {
        Self::Memory(Box::new(error))
    }
}

impl Fault {
    /// What it says of the device.
    pub fn condition(&self) -> Condition {
        match self {
            Self::Pipeline(PipelineError::Tensor(error)) | Self::Tensor(error) => condition(error),
            Self::Memory(error) => match &**error {
                MemoryError::OutOfMemory(_) => Condition::Full,
                MemoryError::DeviceLost { .. } => Condition::Lost,
                MemoryError::Load { source, .. } => condition(source),
                _ => Condition::Sound,
            },
            _ => Condition::Sound,
        }
    }

    /// As the engine reports it. An error that follows from a lost device need not say so: the device itself is asked.
    pub fn at(self, sub_step: SubStep, on: &Device) -> EngineError {
        let condition = match self.condition() {
            Condition::Sound if self.may_be_the_devices() && device::memory(on).is_err() => Condition::Lost,
            known => known,
        };
        let message = self.to_string();
        if let Self::Stopped(reason) = self {
            return EngineError::Stopped(reason);
        }
        match condition {
            Condition::Lost => EngineError::DeviceLost { sub_step, message },
            Condition::Full => EngineError::OutOfMemory { sub_step, message },
            Condition::Sound if self.is_the_plans() => EngineError::Unfit(message),
            Condition::Sound => EngineError::Step { sub_step, message },
        }
    }

    /// Whether another plan would do.
    fn is_the_plans(&self) -> bool {
        match self {
            Self::Memory(error) => matches!(&**error, MemoryError::CannotFit(_)),
            Self::Pipeline(PipelineError::Unfit(_)) | Self::Typeset(_) => true,
            _ => false,
        }
    }

    fn may_be_the_devices(&self) -> bool {
        matches!(self, Self::Pipeline(PipelineError::Tensor(_)) | Self::Tensor(_) | Self::Memory(_))
    }
}

/// A checkpoint that cannot be used: nothing was loaded, and another job may not need it.
pub fn unavailable(variable: &str, error: &CheckpointError) -> EngineError {
    EngineError::Unavailable(format!("{variable}: {error}"))
}

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

/// What a device's error says of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It has no room.
    Full,
    /// Its context is lost: every later call fails too.
    Lost,
    /// It is fine; the operation is not.
    Sound,
}

/// Driver errors after which the context cannot be used (CUDA's documentation: "the process must be terminated and
/// relaunched").
const LOST: [&str; 11] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ASSERT",
];

/// Driver and library errors that mean that there is no room.
const FULL: [&str; 3] =
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"];

/// Reads the driver's name for an error out of candle's words, which is all that candle passes on.
pub fn condition(error: &candle_core::Error) -> Condition {
    let words = format!("{error} {error:?}");
    let named = |names: &[&str]| names.iter().any(|name| words.contains(name));
    if named(&LOST) {
        Condition::Lost
    } else if named(&FULL) {
        Condition::Full
    } else {
        Condition::Sound
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

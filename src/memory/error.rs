//! Why a model is not where it is needed.

use std::fmt;

use super::CannotFit;
use super::budget::gib;
use super::fault::{Condition, condition};

/// What [`super::Memory`] refuses or fails at.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The request cannot be carried out on this device; nothing was moved.
    #[error(transparent)]
    CannotFit(#[from] Box<CannotFit>),
    /// The device ran full, and did so again, or must, after all that had no use was freed.
    #[error(transparent)]
    OutOfMemory(Box<Full>),
    /// The device's context is lost; nothing works on it until the process is replaced.
    #[error("{doing}: the device is lost: {source}")]
    DeviceLost {
        /// What was being done.
        doing: String,
        /// The driver's words.
        source: candle_core::Error,
    },
    /// The weights could not be read or do not make up the net.
    #[error("{model}: {source}")]
    Load {
        /// Which.
        model: String,
        /// Why.
        source: candle_core::Error,
    },
    /// Whoever asked no longer wants it.
    #[error("stopped while weights were read")]
    Stopped,
    /// A call out of order: a visit that was not announced, a model that the visit did not name.
    #[error("{0}")]
    OutOfOrder(String),
}

/// The numbers of [`MemoryError::OutOfMemory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// What was being done: `FLUX transformer comes in`.
    pub doing: String,
    /// Bytes that it needs.
    pub needed: u64,
    /// Bytes of weights on the device.
    pub allocated: u64,
    /// Bytes that the driver says are free, where there is a driver.
    pub free: Option<u64>,
    /// Bytes that the plan reckoned with.
    pub budget: Option<u64>,
    /// The driver's words, or the plan's.
    pub reason: String,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: out of device memory: {} needed, {} taken by weights",
            self.doing,
            gib(self.needed),
            gib(self.allocated)
        )?;
        if let Some(free) = self.free {
            write!(f, ", {} free by the driver's count", gib(free))?;
        }
        match self.budget {
            Some(budget) => write!(f, ", {} planned with", gib(budget))?,
            None => f.write_str(", no budget (GPU_BUDGET=off)")?,
        }
        write!(f, ". {}", self.reason)
    }
}

impl std::error::Error for Full {}

impl MemoryError {
    /// A failed operation on the device or on weights, by what it says of the device.
    pub(super) fn of(doing: &str, source: candle_core::Error) -> Self {
        match condition(&source) {
            Condition::Lost => Self::DeviceLost { doing: doing.to_owned(), source },
            Condition::Full => Self::OutOfMemory(Box::new(Full {
                doing: doing.to_owned(),
                needed: 0,
                allocated: 0,
                free: None,
                budget: None,
                reason: source.to_string(),
            })),
            Condition::Sound => Self::Load { model: doing.to_owned(), source },
        }
    }
}

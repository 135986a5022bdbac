//! Why a model is not where it is needed.

use super::CannotFit;

/// What [`super::Memory`] refuses or fails at.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The request cannot be carried out on this device; nothing was moved.
    #[error(transparent)]
    CannotFit(#[from] Box<CannotFit>),
    /// The device ran out of memory although the budget allowed it: somebody else took it.
    #[error("{model}: {needed} bytes do not fit on the device: {source}")]
    OutOfMemory {
        /// What was to come in.
        model: String,
        /// Its bytes.
        needed: u64,
        /// The driver's words.
        source: candle_core::Error,
    },
    /// The device's context is lost; nothing works on it until the process is replaced.
    #[error("{model}: the device is lost: {source}")]
    DeviceLost {
        /// What was being moved.
        model: String,
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
    /// A call out of order: a visit that was not announced, a model that the visit did not name.
    #[error("{0}")]
    OutOfOrder(String),
}

//! What the device itself says of its memory.

use candle_core::{Device, Result};

use crate::models::device::keep_freed;

/// The device's own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that nobody has.
    pub free: u64,
    /// Bytes of the device.
    pub total: u64,
}

/// Who counts. A card's driver, or a test.
pub trait Driver: Send + Sync {
    /// Memory of all processes together, without waiting for the device; `None` where nobody counts (a CPU).
    ///
    /// # Errors
    /// The device is lost.
    fn usage(&self) -> Result<Option<Usage>>;

    /// Waits until freed memory is back, except for what may be kept.
    ///
    /// # Errors
    /// The device is lost.
    fn settle(&self) -> Result<()>;

    /// Lets the allocator of what is computed with keep up to `bytes` that were freed; what it holds beyond that goes back.
    ///
    /// # Errors
    /// The device is lost.
    fn keep(&self, bytes: u64) -> Result<()>;
}

/// The driver of candle's device.
pub(super) struct Real(pub(super) Device);

impl Driver for Real {
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "only a card can be lost"))]
    fn usage(&self) -> Result<Option<Usage>> {
        match &self.0 {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let stream = cuda.cuda_stream();
                let (free, total) = stream
                    .context()
                    .mem_get_info()
                    .map_err(|error| candle_core::Error::Msg(format!("the card's memory: {error:?}")))?;
                Ok(Some(Usage { free: free as u64, total: total as u64 }))
            }
            _ => Ok(None),
        }
    }

    fn settle(&self) -> Result<()> {
        self.0.synchronize()
    }

    fn keep(&self, bytes: u64) -> Result<()> {
        keep_freed(&self.0, bytes)
    }
}

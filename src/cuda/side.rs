//! A second compute stream of a card, for kernels too small to fill it.
//!
//! Tensors that were brought to the side belong to a device of their own: kernels on them go to its stream, and their memory
//! is freed in its order. What only reads tensors of the main stream (weights, the text) needs no bringing: kernels go where
//! their first operand is, and [`Side::begin`] orders the two. Must not know what is computed. Caller: `models::ops::beside`.

use std::sync::Arc;
use std::time::Instant;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DriverError};
use candle_core::{CudaDevice, Error, Result, Tensor};

use super::{copy, launch};

/// A second stream beside an opened device's. It comes with candle's libraries for a device, which take memory of the card: to
/// be held for a run, not for the life of the process.
#[derive(Debug)]
pub struct Side {
    main: Arc<CudaStream>,
    card: CudaDevice,
}

fn failed(error: DriverError) -> Error {
    Error::Msg(format!("the card's second stream: {error}"))
}

impl Side {
    /// Beside the device that `card` is.
    ///
    /// # Errors
    /// No room on the card for its libraries, or the card is lost.
    pub fn open(card: &CudaDevice) -> Result<Self> {
        let begun = Instant::now();
        let main = card.cuda_stream();
        let side = CudaDevice::new_with_stream(main.context().ordinal())?;
        super::track_no_events(&side);
        tracing::debug!(took = ?begun.elapsed(), "a second stream");
        Ok(Self { main, card: side })
    }

    /// What is given to the side from now on runs after what the main stream has been given.
    ///
    /// # Errors
    /// The card is lost.
    pub fn begin(&self) -> Result<()> {
        self.card.cuda_stream().join(&self.main).map_err(failed)
    }

    /// What is given to the main stream from now on runs after what the side has been given.
    ///
    /// # Errors
    /// The card is lost.
    pub fn end(&self) -> Result<()> {
        self.main.join(&self.card.cuda_stream()).map_err(failed)
    }

    /// A contiguous copy of `x` that belongs to the side, made in its order; `None` for tensors that no kernel copies.
    ///
    /// # Errors
    /// No room on the card.
    pub fn bring(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let y = launch::empty(x.shape(), x.dtype(), &self.card)?;
        Ok(copy::copy_into(x, &y)?.then_some(y))
    }
}

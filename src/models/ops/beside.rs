//! Two things at once: work on whose result the device's other work does not depend yet.

use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{launch, side::Side};
#[cfg(feature = "cuda")]
use std::sync::{Arc, Once};

/// What some work gives, which may still be running beside what the device was given after it.
#[derive(Debug)]
pub struct Beside<T> {
    value: T,
    #[cfg(feature = "cuda")]
    side: Option<Arc<Side>>,
}

/// Does `work` on `inputs`. A card does it on a second stream, beside what it is given next, until [`Beside::join`]: kernels
/// of less than a wave leave multiprocessors idle that another kernel's blocks can use. The numbers are the same. `work` must
/// get from its inputs whatever it computes with, and may read other tensors of the device: kernels go where their first
/// operand is. Work that some kernel does not take is done again in line, and so is all of it where there is no second
/// stream.
///
/// # Errors
/// What `work` returns; the device is lost.
pub fn beside<T>(inputs: &[&Tensor], work: impl Fn(&[Tensor]) -> Result<T>) -> Result<Beside<T>> {
    #[cfg(feature = "cuda")]
    if let Some(begun) = on_the_side(inputs, &work) {
        return Ok(begun);
    }
    let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
    Ok(Beside {
        value: work(&inputs)?,
        #[cfg(feature = "cuda")]
        side: None,
    })
}

/// `None` if it is to be done in line: also after a failure, which happens there again if it is the work's own.
#[cfg(feature = "cuda")]
fn on_the_side<T>(inputs: &[&Tensor], work: impl Fn(&[Tensor]) -> Result<T>) -> Option<Beside<T>> {
    let first = inputs.first()?;
    // f32 is what pictures are checked in, and has no kernels for some of the work.
    let card = launch::card(first.device()).filter(|_| first.dtype().size_in_bytes() == 2)?;
    let begun = Side::of(card).and_then(|side| {
        side.begin()?;
        let brought: Option<Vec<Tensor>> = inputs
            .iter()
            .map(|input| side.bring(input).transpose())
            .collect::<Option<Result<_>>>()
            .transpose()?;
        let Some(brought) = brought else { return Ok(None) };
        let value = work(&brought);
        if value.is_err() {
            // What it was given may still read tensors that the main stream frees.
            side.end()?;
        }
        Ok(Some(Beside { value: value?, side: Some(side) }))
    });
    begun.unwrap_or_else(|reason| {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::warn!(%reason, "nothing is computed beside something else on this card"));
        None
    })
}

impl<T> Beside<T> {
    /// The result, for work that is given to the device from now on.
    ///
    /// # Errors
    /// The device is lost.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "only a card can be lost"))]
    pub fn join(&self) -> Result<&T> {
        #[cfg(feature = "cuda")]
        if let Some(side) = &self.side {
            side.end()?;
        }
        Ok(&self.value)
    }
}

#[cfg(feature = "cuda")]
impl<T> Drop for Beside<T> {
    /// The result is freed in the side's order, so the side waits for those who read it; what the work read is freed in the
    /// main stream's, which waits for the work.
    fn drop(&mut self) {
        if let Some(side) = &self.side {
            // A card that is lost says so to whoever gives it work next.
            let _ = side.end().and_then(|()| side.begin());
        }
    }
}

//! Two things at once: work on whose result the device's other work does not depend yet.

use std::marker::PhantomData;

use candle_core::{Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{launch, side::Side};
#[cfg(feature = "cuda")]
use candle_core::DType;
#[cfg(feature = "cuda")]
use std::sync::{Arc, Once};

/// Where work is done beside a device's other work: a card's second stream, which lasts as long as this; nowhere on a CPU.
#[derive(Debug, Clone)]
pub struct Aside {
    #[cfg(feature = "cuda")]
    side: Option<Arc<Side>>,
}

/// What some work gives, which may still be running beside what the device was given after it. `'a`: what the work reads
/// beside its inputs, which must not be freed before.
#[derive(Debug)]
pub struct Beside<'a, T> {
    // Before the tensors, which must not go first.
    #[cfg(feature = "cuda")]
    under_way: Option<UnderWay>,
    value: T,
    /// What the second stream may still read: freed any sooner, the main stream would write something else there.
    #[cfg(feature = "cuda")]
    _inputs: Vec<Tensor>,
    _reads: PhantomData<&'a ()>,
}

/// Work that was given to the second stream.
#[cfg(feature = "cuda")]
#[derive(Debug)]
struct UnderWay(Arc<Side>);

#[cfg(feature = "cuda")]
impl Drop for UnderWay {
    /// The result is freed in the side's order, so the side waits for those who read it; what the work read is freed in the
    /// main stream's, which waits for the work.
    fn drop(&mut self) {
        // A card that is lost says so to whoever gives it work next.
        let _ = self.0.end().and_then(|()| self.0.begin());
    }
}

impl Aside {
    /// For work on tensors of `like`'s device and dtype. A card that has no room for it goes without.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(unused_variables, reason = "a CPU does one thing after the other")
    )]
    pub fn open(like: &Tensor) -> Self {
        // f32 is what pictures are checked in, and has no kernels for some of the work.
        #[cfg(feature = "cuda")]
        let card = launch::card(like.device()).filter(|_| matches!(like.dtype(), DType::F16 | DType::BF16));
        Self {
            #[cfg(feature = "cuda")]
            side: card.and_then(|card| Side::open(card).map_err(|reason| told(&reason)).ok()).map(Arc::new),
        }
    }

    /// Does `work` on `inputs`. A card does it on the second stream, beside what it is given next, until [`Beside::join`]:
    /// kernels of less than a wave leave multiprocessors idle that another kernel's blocks can use. The numbers are the same.
    /// `work` must get from its inputs whatever it computes with, and may read other tensors of the device: kernels go where
    /// their first operand is. What it reads stays until the result goes: inputs are held, the rest is borrowed. Work that some
    /// kernel does not take is done again in line, and so is all of it where there is no second stream.
    ///
    /// # Errors
    /// What `work` returns; the device is lost.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(clippy::unused_self, reason = "a CPU does one thing after the other")
    )]
    pub fn run<'a, T>(
        &self,
        inputs: &[&Tensor],
        work: impl Fn(&[Tensor]) -> Result<T> + 'a,
    ) -> Result<Beside<'a, T>> {
        #[cfg(feature = "cuda")]
        if let Some(side) = &self.side {
            match on(side, inputs, &work) {
                Ok(Some(begun)) => return Ok(begun),
                Ok(None) => {}
                // If it is the work's own it happens again.
                Err(reason) => told(&reason),
            }
        }
        let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
        Ok(Beside {
            #[cfg(feature = "cuda")]
            under_way: None,
            value: work(&inputs)?,
            #[cfg(feature = "cuda")]
            _inputs: Vec::new(),
            _reads: PhantomData,
        })
    }
}

#[cfg(feature = "cuda")]
fn told(reason: &candle_core::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| tracing::warn!(%reason, "nothing is computed beside something else on this card"));
}

/// `None` for inputs that cannot be brought there.
#[cfg(feature = "cuda")]
fn on<'a, T>(
    side: &Arc<Side>,
    inputs: &[&Tensor],
    work: &(impl Fn(&[Tensor]) -> Result<T> + 'a),
) -> Result<Option<Beside<'a, T>>> {
    side.begin()?;
    // Whatever fails from here on: what was given to the side may still read tensors that the main stream frees.
    let under_way = UnderWay(Arc::clone(side));
    let brought: Option<Vec<Tensor>> = inputs
        .iter()
        .map(|input| side.bring(input).transpose())
        .collect::<Option<Result<_>>>()
        .transpose()?;
    let Some(brought) = brought else { return Ok(None) };
    Ok(Some(Beside {
        value: work(&brought)?,
        under_way: Some(under_way),
        _inputs: inputs.iter().map(|&input| input.clone()).collect(),
        _reads: PhantomData,
    }))
}

impl<T> Beside<'_, T> {
    /// Whether the second stream does the work.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(clippy::unused_self, reason = "a CPU does one thing after the other")
    )]
    pub fn is_aside(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.under_way.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The result, for work that is given to the device from now on.
    ///
    /// # Errors
    /// The device is lost.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "only a card can be lost"))]
    pub fn join(&self) -> Result<&T> {
        #[cfg(feature = "cuda")]
        if let Some(UnderWay(side)) = &self.under_way {
            side.end()?;
        }
        Ok(&self.value)
    }
}

//! One registered model: where it is, and the moves that it can make.
//!
//! Must not know budgets or other models. Caller: `residency`.

use std::any::Any;
use std::sync::Arc;

use candle_core::Result;

use super::schedule::{RING_SLOTS, Size, Standing};
use super::shelf::{Arrival, Shelf};
use crate::models::weights::Weights;

/// A net of any kind.
pub(super) type Net = Arc<dyn Any + Send + Sync>;
pub(super) type Build = Box<dyn Fn(&Weights) -> Result<Net> + Send>;

pub(super) struct Model {
    pub(super) size: Size,
    pub(super) shelf: Arc<dyn Shelf>,
    build: Build,
    device: Option<OnDevice>,
    /// Steps that used it since it came.
    pub(super) steps: Vec<u8>,
}

struct OnDevice {
    arrival: Box<dyn Arrival>,
    held: Vec<bool>,
    /// Bytes of the ring that the net streams its other pieces through.
    ring: u64,
    net: Option<Net>,
}

impl Model {
    pub(super) fn new(shelf: Arc<dyn Shelf>, build: Build) -> Self {
        Self { size: shelf.size(), shelf, build, device: None, steps: Vec::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.size.name
    }

    /// The size, with what the host copy takes if there is one.
    pub(super) fn size_now(&self) -> Size {
        Size { host: self.shelf.size().host, ..self.size.clone() }
    }

    pub(super) fn standing(&self, being_read: bool) -> Standing {
        let none = || vec![false; self.size.pieces.len()];
        Standing {
            held: self.device.as_ref().map_or_else(none, |device| device.held.clone()),
            ring: self.device.as_ref().map_or(0, |device| device.ring),
            on_host: being_read || self.shelf.is_on_host(),
        }
    }

    /// Weights and ring on the device.
    pub(super) fn bytes(&self) -> u64 {
        let Some(device) = &self.device else { return 0 };
        let pieces = self.size.pieces.iter().zip(&device.held);
        device.ring + pieces.filter(|(_, held)| **held).map(|(bytes, _)| bytes).sum::<u64>()
    }

    /// The net, while it is there.
    pub(super) fn net(&self) -> Option<Net> {
        self.device.as_ref()?.net.clone()
    }

    pub(super) fn is_leased(&self) -> bool {
        let net = self.device.as_ref().and_then(|device| device.net.as_ref());
        net.is_some_and(|net| Arc::strong_count(net) > 1)
    }

    /// Takes memory for `pieces` and begins to copy: one after the other out of a host copy, all at once out of the files.
    ///
    /// # Errors
    /// The device has no room or is lost, the files cannot be read, `go_on` said no. Pieces that came before stay.
    pub(super) fn bring(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()> {
        let device = self.device.get_or_insert_with(|| {
            self.steps.clear();
            let held = vec![false; self.size.pieces.len()];
            OnDevice { arrival: self.shelf.arrival(), held, ring: 0, net: None }
        });
        // Built on fewer pieces.
        device.drop_net();
        for pieces in pieces.chunks(if self.shelf.is_on_host() { 1 } else { pieces.len().max(1) }) {
            if let Err(error) = device.arrival.bring(pieces, go_on) {
                if !device.held.contains(&true) {
                    self.device = None;
                }
                return Err(error);
            }
            for piece in pieces {
                if let Some(held) = device.held.get_mut(*piece) {
                    *held = true;
                }
            }
        }
        Ok(())
    }

    /// Builds the net, if it is not built yet: microseconds, and no memory but a ring for what is `streamed`.
    ///
    /// # Errors
    /// Pieces are missing, the net does not accept its weights, no room for the ring, the device is lost.
    pub(super) fn build(&mut self, streamed: &[usize]) -> Result<()> {
        if self.device.is_none() && !streamed.is_empty() {
            // Nothing but what is streamed.
            self.bring(&[], &|| true)?;
        }
        let Some(device) = &mut self.device else { return Ok(()) };
        if device.net.is_none() {
            device.net = Some((self.build)(&device.arrival.weights(streamed)?)?);
            device.ring = if streamed.is_empty() { 0 } else { RING_SLOTS * self.size.slot };
        }
        Ok(())
    }

    /// Frees `pieces`. Nobody may lease the net.
    ///
    /// # Errors
    /// The device is lost.
    pub(super) fn free(&mut self, pieces: &[usize]) -> Result<()> {
        let Some(device) = &mut self.device else { return Ok(()) };
        device.drop_net();
        let held: Vec<usize> =
            pieces.iter().copied().filter(|piece| device.held.get(*piece) == Some(&true)).collect();
        device.arrival.free(&held)?;
        for piece in held {
            if let Some(held) = device.held.get_mut(piece) {
                *held = false;
            }
        }
        if !device.held.contains(&true) {
            self.device = None;
            self.steps.clear();
        }
        Ok(())
    }
}

impl OnDevice {
    /// The ring goes with it.
    fn drop_net(&mut self) {
        self.net = None;
        self.ring = 0;
    }
}

//! [`Shelf`] over a [`Store`].

use std::sync::Arc;

use candle_core::Result;

use super::pace::Pace;
use super::parts::Parts;
use super::schedule::Size;
use super::shelf::{Arrival, Shelf};
use super::store::Store;
use super::transfer::Transfer;
use crate::models::weights::Weights;

/// A model in a store.
pub(super) struct Stored {
    store: Arc<Store>,
    transfer: Transfer,
}

impl Stored {
    pub(super) fn new(store: Store, transfer: Transfer) -> Self {
        Self { store: Arc::new(store), transfer }
    }
}

impl Shelf for Stored {
    fn size(&self) -> Size {
        Size {
            name: self.store.name().to_owned(),
            pieces: self.store.pieces(),
            slot: self.store.slot(),
            host: self.store.host_bytes(),
        }
    }

    fn is_on_host(&self) -> bool {
        self.store.is_on_host()
    }

    fn read(&self, pace: &Pace) -> Result<()> {
        self.store.load_host(pace)
    }

    fn forget(&self) {
        self.store.drop_host();
    }

    fn arrival(&self) -> Box<dyn Arrival> {
        Box::new(Parts::new(&self.store, &self.transfer))
    }
}

impl Arrival for Parts {
    fn bring(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()> {
        self.bring(pieces, go_on)
    }

    fn weights(&mut self, streamed: &[usize]) -> Result<Weights> {
        Self::weights(self, streamed, true)
    }

    fn free(&mut self, pieces: &[usize]) -> Result<()> {
        Self::free(self, pieces);
        Ok(())
    }
}

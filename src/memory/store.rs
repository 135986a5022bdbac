//! One model's weights in their files and in main memory.
//!
//! A [`Store`] knows where everything lies and keeps the host copy; [`super::Parts`] are the pieces of it that are on the device.
//! Nothing is decided here: what is where when is `residency`'s business. Must not know nets beyond their constructors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result};

use super::arena::{HostArena, Table};
use super::pace::Pace;
use super::pinned::HostMemory;
use super::{loader, packing, streaming};
use crate::models::weights::{Layout, Probe, Source, Weights};

/// A model's weights: where they come from, where each lies, and the copy in main memory, if there is one.
pub struct Store {
    name: String,
    pub(super) source: Arc<dyn Source>,
    layout: Arc<Layout>,
    pub(super) dtype: DType,
    pub(super) device: Device,
    packs: bool,
    host: Mutex<Option<Arc<HostArena>>>,
    loaded: AtomicU64,
}

impl Store {
    /// Lays out what `build` asks for when the net computes in `dtype` on `device`. Reads no data.
    ///
    /// # Errors
    /// `build` does not accept its configuration, or the source lacks a tensor.
    pub fn new(
        name: impl Into<String>,
        source: Arc<dyn Source>,
        dtype: DType,
        device: &Device,
        build: impl Fn(&Weights) -> Result<()>,
    ) -> Result<Self> {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing_as(&probe, dtype))?;
        let layout = Layout::new(&probe, source.as_ref(), !device.is_cpu())?;
        Ok(Self::laid_out(name, source, layout, dtype, device))
    }

    /// [`Store::new`] with a layout made before.
    pub fn laid_out(
        name: impl Into<String>,
        source: Arc<dyn Source>,
        layout: Layout,
        dtype: DType,
        device: &Device,
    ) -> Self {
        Self {
            name: name.into(),
            source,
            layout: Arc::new(layout),
            dtype,
            device: device.clone(),
            packs: !device.is_cpu(),
            host: Mutex::new(None),
            loaded: AtomicU64::new(0),
        }
    }

    /// Whether the host copy is packed where it is bf16: three tenths less to keep and to send over the bus. By default it is
    /// where there is a bus, for a card. Before the first [`Store::load_host`].
    #[must_use]
    pub fn packing(self, packs: bool) -> Self {
        Self { packs, ..self }
    }

    /// For people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where each tensor lies.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What it takes on the device when all of it is there, quantised tensors included.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes() + self.layout.outside()
    }

    /// Bytes of what comes in and goes by itself, in order of first use; quantised tensors count. Piece 0 is what belongs to
    /// no block.
    pub fn pieces(&self) -> Vec<u64> {
        self.layout.segments().iter().map(|piece| piece.bytes() as u64 + piece.outside).collect()
    }

    /// Bytes of a slot that any piece but the first fits into, if the net lets them come and go while it runs; else 0.
    pub fn slot(&self) -> u64 {
        let blocks: Vec<usize> = self.blocks().collect();
        streaming::capacity(&self.layout, &blocks).iter().map(|(_, bytes)| *bytes as u64).sum()
    }

    /// Pieces that may be streamed.
    pub(super) fn blocks(&self) -> impl Iterator<Item = usize> {
        let segments = self.layout.segments().iter().enumerate();
        segments.filter(|(_, segment)| segment.is_block).map(|(index, _)| index)
    }

    /// What the host copy takes; what it takes at most, while there is none.
    pub fn host_bytes(&self) -> u64 {
        self.host().map_or_else(|| self.layout.bytes(), |host| host.memory().bytes().len() as u64)
    }

    /// Whether there is a host copy.
    pub fn is_on_host(&self) -> bool {
        self.host().is_some()
    }

    /// Bytes that are in place of a [`Store::load_host`] that runs on another thread.
    pub fn loaded_bytes(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Makes the host copy, if there is none: reads, converts, page-locks for a card. Returns when it is there.
    ///
    /// # Errors
    /// The files cannot be read, main memory has no room or may not be locked, `pace` was stopped.
    pub fn load_host(&self, pace: &Pace) -> Result<()> {
        if self.is_on_host() {
            return Ok(());
        }
        self.loaded.store(0, Ordering::Relaxed);
        let (layout, source) = (&self.layout, self.source.as_ref());
        let mut arena = if self.packs && packing::pays(layout) {
            let read = packing::read(layout, source, &self.loaded, pace);
            read.map_err(|error| self.named(&error))?
        } else {
            let all: Vec<usize> = (0..layout.segments().len()).collect();
            let table = Table::new(layout, &all);
            let mut memory = HostMemory::new(table.bytes())?;
            let filled = loader::fill(memory.bytes_mut(), &table, layout, source, &self.loaded, pace);
            filled.map_err(|error| self.named(&error))?;
            HostArena::plain(memory, table)
        };
        arena.memory_mut().lock(&self.device, loader::threads())?;
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(arena));
        Ok(())
    }

    pub(super) fn named(&self, error: &Error) -> Error {
        Error::Msg(format!("{}: {error}", self.name))
    }

    /// Gives the host copy's memory back, as soon as no copy reads it.
    pub fn drop_host(&self) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn host(&self) -> Option<Arc<HostArena>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

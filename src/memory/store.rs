//! One model's weights on their way from files through main memory to the device.
//!
//! A [`Store`] knows where everything lies and keeps the host copy; an [`Upload`] brings it onto the device, whole or in
//! parts, while other work computes; a [`Resident`] is what nets are built from. Nothing is decided here: when which of
//! them exists is `residency`'s business. Must not know nets beyond their constructors.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Tensor};

use super::arena::{DeviceLane, HostArena};
use super::loader;
use super::streaming::{Ring, Split};
use super::transfer::{Mark, Transfer};
use crate::models::weights::{Lanes, Layout, Probe, Segment, Source, Weights};

/// Least bytes of a slab, but for the last: few enough allocations, small enough to come in as room appears.
const SLAB: usize = 512 << 20;

/// A model's weights: where they come from, where each lies, and the copy in main memory, if there is one.
pub struct Store {
    name: String,
    source: Arc<dyn Source>,
    layout: Arc<Layout>,
    dtype: DType,
    device: Device,
    host: Mutex<Option<Arc<HostArena>>>,
    loaded: AtomicU64,
    stop: AtomicBool,
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
        Ok(Self {
            name: name.into(),
            source,
            layout: Arc::new(layout),
            dtype,
            device: device.clone(),
            host: Mutex::new(None),
            loaded: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
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

    /// Blocks and what is around them, in order of first use.
    pub fn segments(&self) -> &[Segment] {
        self.layout.segments()
    }

    /// What the host copy takes, or would take.
    pub fn host_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Whether there is a host copy.
    pub fn is_on_host(&self) -> bool {
        self.host().is_some()
    }

    /// Bytes that are in place of a [`Store::load_host`] that runs on another thread.
    pub fn loaded_bytes(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Ends a [`Store::load_host`] that runs on another thread; it returns an error.
    pub fn stop_loading(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Makes the host copy, if there is none: reads, converts, page-locks for a card. Returns when it is there.
    ///
    /// # Errors
    /// The files cannot be read, main memory has no room or may not be locked.
    pub fn load_host(&self) -> Result<()> {
        if self.is_on_host() {
            return Ok(());
        }
        self.loaded.store(0, Ordering::Relaxed);
        self.stop.store(false, Ordering::Relaxed);
        let mut arena = HostArena::new(&self.layout)?;
        loader::fill(&mut arena, &self.layout, self.source.as_ref(), &self.loaded, &self.stop)
            .map_err(|error| Error::Msg(format!("{}: {error}", self.name)))?;
        arena.memory_mut().lock(&self.device, loader::threads())?;
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(arena));
        Ok(())
    }

    /// Gives the host copy's memory back, as soon as no copy reads it.
    pub fn drop_host(&self) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn host(&self) -> Option<Arc<HostArena>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings everything onto the device; copies may still run when it returns.
    ///
    /// # Errors
    /// As [`Store::begin`] and [`Upload::advance`].
    pub fn upload(&self, transfer: &Transfer) -> Result<Upload> {
        let mut upload = self.begin(transfer, Split::whole(&self.layout))?;
        upload.advance(u64::MAX)?;
        Ok(upload)
    }

    /// Begins to bring onto the device what `split` keeps there; nothing is allocated but the slots for what it streams.
    ///
    /// # Errors
    /// No host copy, no room for the slots.
    pub fn begin(&self, transfer: &Transfer, split: Split) -> Result<Upload> {
        let Some(host) = self.host() else {
            return Err(Error::Msg(format!("{}: upload without a host copy", self.name)));
        };
        let ring = if split.streamed().is_empty() {
            None
        } else {
            Some(Ring::new(&self.layout, &host, transfer, &split)?)
        };
        let mut places: Vec<Place> = vec![Place::default(); self.layout.segments().len()];
        for segment in split.streamed() {
            if let Some(place) = places.get_mut(*segment) {
                place.streamed = true;
            }
        }
        let mut slabs: Vec<Vec<usize>> = Vec::new();
        let mut open = 0;
        for &segment in split.resident() {
            if open == 0 {
                slabs.push(Vec::new());
            }
            if let Some(slab) = slabs.last_mut() {
                slab.push(segment);
            }
            open += self.layout.segments().get(segment).map_or(0, Segment::bytes);
            open = if open >= SLAB { 0 } else { open };
        }
        slabs.reverse();
        Ok(Upload {
            layout: Arc::clone(&self.layout),
            source: Arc::clone(&self.source),
            dtype: self.dtype,
            transfer: transfer.clone(),
            host,
            waiting: slabs,
            device: DeviceLanes { places, ring },
            marks: Vec::new(),
        })
    }
}

/// Where the lanes of a segment lie on the device.
#[derive(Clone, Default)]
struct Place {
    lanes: Vec<Tensor>,
    streamed: bool,
}

/// A model's memory on the device.
struct DeviceLanes {
    /// By segment.
    places: Vec<Place>,
    ring: Option<Arc<Ring>>,
}

impl Lanes for DeviceLanes {
    fn lane(&self, segment: usize, dtype: DType) -> Option<Tensor> {
        self.places.get(segment)?.lanes.iter().find(|lane| lane.dtype() == dtype).cloned()
    }

    fn is_streamed(&self, segment: usize) -> bool {
        self.places.get(segment).is_some_and(|place| place.streamed)
    }

    fn lend(&self, segment: usize) -> Result<Arc<dyn Lanes>> {
        match &self.ring {
            Some(ring) => Ring::lend(ring, segment),
            None => Err(Error::Msg(format!("segment {segment} is not streamed"))),
        }
    }
}

/// A model on its way onto the device. Dropping it frees what has come so far.
pub struct Upload {
    layout: Arc<Layout>,
    source: Arc<dyn Source>,
    dtype: DType,
    transfer: Transfer,
    host: Arc<HostArena>,
    /// Segments of slabs that have no memory yet, the next one last.
    waiting: Vec<Vec<usize>>,
    device: DeviceLanes,
    /// After each slab: passes when it has arrived; its bytes.
    marks: Vec<(Mark, u64)>,
}

impl Upload {
    /// Allocates and begins to copy as many slabs as take no more than `room` bytes; says how many they took. Returns before
    /// the copies are done.
    ///
    /// # Errors
    /// The device has no room or is lost. What came before stays.
    pub fn advance(&mut self, room: u64) -> Result<u64> {
        let mut taken = 0;
        while let Some(segments) = self.waiting.last() {
            let bytes = self.bytes_of(segments);
            if taken + bytes > room {
                break;
            }
            let segments = segments.clone();
            self.bring(&segments)?;
            self.waiting.pop();
            let mark = self.transfer.mark_copies()?;
            self.host.read_until(mark.clone());
            self.marks.push((mark, bytes));
            taken += bytes;
        }
        Ok(taken)
    }

    fn bytes_of(&self, segments: &[usize]) -> u64 {
        let all = self.layout.segments();
        segments.iter().filter_map(|index| all.get(*index)).map(|segment| segment.bytes() as u64).sum()
    }

    /// Bytes that [`Upload::advance`] has yet to allocate.
    pub fn remaining(&self) -> u64 {
        self.waiting.iter().map(|slab| self.bytes_of(slab)).sum()
    }

    /// Bytes that the next slab takes; 0 if all have been allocated.
    pub fn next_slab(&self) -> u64 {
        self.waiting.last().map_or(0, |slab| self.bytes_of(slab))
    }

    /// Bytes that have arrived.
    pub fn arrived(&self) -> u64 {
        self.marks.iter().filter(|(mark, _)| mark.has_passed()).map(|(_, bytes)| bytes).sum()
    }

    /// Waits until everything allocated has arrived.
    pub fn wait(&self) {
        if let Some((mark, _)) = self.marks.last() {
            mark.wait();
        }
    }

    /// Ends the upload: brings in what is missing and lets computing that is asked for from now on wait, on the device, for
    /// the copies.
    ///
    /// # Errors
    /// The device has no room or is lost.
    pub fn ready(mut self) -> Result<Resident> {
        self.advance(u64::MAX)?;
        if let Some((mark, _)) = self.marks.last() {
            self.transfer.compute_after(mark)?;
        }
        let device = std::mem::replace(&mut self.device, DeviceLanes { places: Vec::new(), ring: None });
        Ok(Resident {
            layout: Arc::clone(&self.layout),
            source: Arc::clone(&self.source),
            dtype: self.dtype,
            device: self.transfer.device().clone(),
            lanes: Arc::new(device),
        })
    }

    fn bring(&mut self, segments: &[usize]) -> Result<()> {
        for dtype in self.layout.dtypes() {
            let lane = |index: usize| self.layout.segments().get(index).map_or(0, |at| at.lane(dtype));
            let bytes = segments.iter().map(|index| lane(*index)).sum();
            if bytes == 0 {
                continue;
            }
            let slab = DeviceLane::new(dtype, bytes, self.transfer.device())?;
            let mut at = 0;
            for &segment in segments {
                let length = lane(segment);
                if length == 0 {
                    continue;
                }
                self.transfer.copy(&self.host, self.host.range(segment, dtype), &slab, at)?;
                let size = dtype.size_in_bytes();
                let view = slab.tensor().narrow(0, at / size, length / size)?;
                if let Some(place) = self.device.places.get_mut(segment) {
                    place.lanes.push(view);
                }
                at += length;
            }
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The memory is freed behind the computing; copies into it must be done by then. On a lost card there is nothing
        // left to order.
        if let Ok(mark) = self.transfer.mark_copies() {
            self.host.read_until(mark.clone());
            let _ = self.transfer.compute_after(&mark);
        }
    }
}

/// A model on the device. The memory goes back when this, every [`Weights`] of it and every net built from them are
/// dropped; with the driver it shows after the next [`Transfer::settle`].
#[derive(Clone)]
pub struct Resident {
    layout: Arc<Layout>,
    source: Arc<dyn Source>,
    dtype: DType,
    device: Device,
    lanes: Arc<DeviceLanes>,
}

impl Resident {
    /// What nets are built from.
    pub fn weights(&self) -> Weights {
        let (layout, source) = (Arc::clone(&self.layout), Arc::clone(&self.source));
        Weights::placed(layout, Arc::clone(&self.lanes) as Arc<dyn Lanes>, source, self.dtype, &self.device)
    }
}

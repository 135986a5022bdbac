//! Copies from main memory to the device beside the computing: a stream of their own, and marks that order the two.
//!
//! On a CPU a copy is done when the call returns and marks have always passed, so the same callers run there. Must not
//! know tensors' names or models.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Error, Result};

use super::arena::{DeviceLane, Form, HostArena};
use super::packed;
use super::packed::lane::Lane;
use super::passage::Passage;
use super::pinned::HostMemory;

/// The copy stream of a device and its compute stream.
#[derive(Clone)]
pub struct Transfer {
    device: Device,
    passage: Arc<Passage>,
    #[cfg(feature = "cuda")]
    bus: Option<crate::cuda::bus::Bus>,
}

impl Transfer {
    /// For `device`; one for a device is enough, clones share it.
    ///
    /// # Errors
    /// The card is lost.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "a CPU has no streams"))]
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            bus: match device {
                Device::Cuda(cuda) => Some(crate::cuda::bus::Bus::new(cuda)?),
                _ => None,
            },
            device: device.clone(),
            passage: Arc::default(),
        })
    }

    /// The way from files.
    pub(super) fn passage(&self) -> &Passage {
        &self.passage
    }

    /// Where copies go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copies the lane of `segment` that has `to`'s dtype to `to`, unpacked; nothing, if there is none. On a card it may return
    /// before the copy is done: until a mark made afterwards has passed, the lane is not to be read and `host` not to be
    /// dropped (which [`HostArena::read_until`] sees to).
    ///
    /// # Errors
    /// A lane that does not fit into `to`, a damaged one, a lost card.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, reason = "only a card has a bus"))]
    pub(super) fn copy(&self, host: &HostArena, segment: usize, to: &DeviceLane) -> Result<()> {
        let Some(lane) = host.lane(segment, to.tensor().dtype()) else { return Ok(()) };
        let memory = host.memory().bytes();
        #[cfg(feature = "cuda")]
        if let (Some(bus), Some(block)) = (&self.bus, to.block()) {
            let from = crate::cuda::bus::Registered { memory, piece: super::pinned::PIECE };
            return match &lane.form {
                Form::Plain => bus.copy(from, lane.range.clone(), block, 0),
                Form::Packed(packed) => bus.copy_packed(from, lane.range.start, packed, block),
            };
        }
        let Some(from) = memory.get(lane.range.clone()) else {
            return Err(Error::Msg(format!("bytes {:?} of {}", lane.range, memory.len())));
        };
        to.edit(|place| match &lane.form {
            Form::Plain => write(place, 0, from),
            Form::Packed(packed) => unpack(packed, from, place),
        })
    }

    /// Copies `bytes` of `host` to `to`, `offset` bytes in. Whoever calls it keeps `host` until a mark made afterwards has passed.
    ///
    /// # Errors
    /// A range outside of either, a lost card.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, reason = "only a card has a bus"))]
    pub(super) fn copy_part(
        &self,
        host: &HostMemory,
        bytes: Range<usize>,
        to: &DeviceLane,
        offset: usize,
    ) -> Result<()> {
        let memory = host.bytes();
        #[cfg(feature = "cuda")]
        if let (Some(bus), Some(block)) = (&self.bus, to.block()) {
            let from = crate::cuda::bus::Registered { memory, piece: super::pinned::PIECE };
            return bus.copy(from, bytes, block, offset);
        }
        let Some(from) = memory.get(bytes.clone()) else {
            return Err(Error::Msg(format!("bytes {bytes:?} of {}", memory.len())));
        };
        to.edit(|place| write(place, offset, from))
    }

    /// Passes when main memory has been read by all copies so far; they may not be unpacked yet.
    ///
    /// # Errors
    /// The card is lost.
    pub(super) fn mark_read(&self) -> Result<Mark> {
        self.mark(
            #[cfg(feature = "cuda")]
            crate::cuda::bus::Bus::mark_read,
        )
    }

    /// Passes when all copies so far are done.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mark_copies(&self) -> Result<Mark> {
        self.mark(
            #[cfg(feature = "cuda")]
            crate::cuda::bus::Bus::mark_copies,
        )
    }

    /// [`Transfer::mark_copies`] whose distance to another of its kind can be read ([`Mark::seconds_since`]).
    ///
    /// # Errors
    /// The card is lost.
    pub fn time_copies(&self) -> Result<Mark> {
        self.mark(
            #[cfg(feature = "cuda")]
            crate::cuda::bus::Bus::time_copies,
        )
    }

    /// Passes when all computing so far is done.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mark_compute(&self) -> Result<Mark> {
        self.mark(
            #[cfg(feature = "cuda")]
            crate::cuda::bus::Bus::mark_compute,
        )
    }

    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    fn mark(
        &self,
        #[cfg(feature = "cuda")] make: fn(&crate::cuda::bus::Bus) -> Result<crate::cuda::bus::Event>,
    ) -> Result<Mark> {
        Ok(Mark {
            #[cfg(feature = "cuda")]
            event: self.bus.as_ref().map(make).transpose()?,
        })
    }

    /// Computing that is asked for from now on waits, on the device, for `mark`.
    ///
    /// # Errors
    /// The card is lost.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub fn compute_after(&self, mark: &Mark) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(bus), Some(event)) = (&self.bus, &mark.event) {
            return bus.compute_after(event);
        }
        let _ = mark;
        Ok(())
    }

    /// Copies that are asked for from now on wait, on the device, for `mark`.
    ///
    /// # Errors
    /// The card is lost.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub fn copy_after(&self, mark: &Mark) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(bus), Some(event)) = (&self.bus, &mark.event) {
            return bus.copy_after(event);
        }
        let _ = mark;
        Ok(())
    }

    /// Waits until dropped device memory is back with the driver: it goes when the work that read it is done.
    ///
    /// # Errors
    /// The card is lost.
    pub fn settle(&self) -> Result<()> {
        self.device.synchronize()
    }
}

/// A point in a stream's work. Clones are the same point.
#[derive(Clone)]
pub struct Mark {
    #[cfg(feature = "cuda")]
    event: Option<crate::cuda::bus::Event>,
}

impl Mark {
    /// Whether the work before it is done. A lost card says yes, and the next call on it says why.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, reason = "a CPU is never behind"))]
    pub fn has_passed(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.event.as_ref().is_none_or(crate::cuda::bus::Event::has_passed);
        #[cfg(not(feature = "cuda"))]
        true
    }

    /// How long the device took from `earlier` to this, both made by [`Transfer::time_copies`] and passed; `None` on a CPU.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, reason = "a CPU is never behind"))]
    pub fn seconds_since(&self, earlier: &Self) -> Option<f64> {
        #[cfg(feature = "cuda")]
        return self.event.as_ref()?.seconds_since(earlier.event.as_ref()?);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = earlier;
            None
        }
    }

    /// Waits for it. A lost card ends the wait, and the next call on it says why.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, reason = "a CPU is never behind"))]
    pub fn wait(&self) {
        #[cfg(feature = "cuda")]
        if let Some(event) = &self.event {
            event.wait();
        }
    }
}

fn write(place: &mut [u8], offset: usize, from: &[u8]) -> Result<()> {
    let length = place.len();
    match place.get_mut(offset..offset + from.len()) {
        Some(place) => place.copy_from_slice(from),
        None => return Err(Error::Msg(format!("{} bytes at {offset} of {length}", from.len()))),
    }
    Ok(())
}

/// The blobs `from` of `lane`, unpacked into `place` as a card does it: over themselves, wave by wave.
fn unpack(lane: &Lane, from: &[u8], place: &mut [u8]) -> Result<()> {
    let short =
        || Error::Msg(format!("a packed lane of {} bytes: {} are there", lane.packed_bytes(), from.len()));
    let offset = lane.offset().ok_or_else(short)?;
    write(place, offset, from.get(lane.in_place()).ok_or_else(short)?)?;
    let slot = from.get(lane.staged()).ok_or_else(short)?;
    let (mut blob, mut numbers) = (Vec::new(), Vec::new());
    for wave in lane.waves() {
        for tile in wave.tiles(lane) {
            let of_tile = if wave.staged {
                slot.get(tile.blob.clone())
            } else {
                place.get(offset + tile.blob.start..offset + tile.blob.end)
            };
            blob.clear();
            blob.extend_from_slice(of_tile.ok_or_else(short)?);
            if tile.raw {
                write(place, tile.bytes.start, blob.get(..tile.bytes.len()).ok_or_else(short)?)?;
                continue;
            }
            numbers.resize(tile.bytes.len() / 2, 0u16);
            packed::unpack(&blob, &mut numbers).map_err(Error::wrap)?;
            write(place, tile.bytes.start, bytemuck::cast_slice(&numbers))?;
        }
    }
    Ok(())
}

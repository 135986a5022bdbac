//! From a checkpoint's files into packed lanes: what lies plainly in the files tile by tile ([`direct`]), everything else group
//! by group, packed while the next group is read.
//!
//! Beside what is packed no more than two groups lie in main memory. Must not know devices or nets. Caller: `store`.

mod direct;
mod line;

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use candle_core::{DType, Error, Result};

use super::arena::{Form, HostArena, HostLane, Table};
use super::loader;
use super::pace::Pace;
use super::packed::TILE;
use super::packed::lane::Lane;
use super::pinned::HostMemory;
use crate::models::weights::{ALIGNMENT, Layout, Segment, Source};
use line::{Packed, Tiles};

/// Bytes that are read before they are packed; a larger segment is a group of its own.
const GROUP: usize = 512 << 20;

/// Lanes of less are not worth their commands.
const LEAST: usize = 1 << 20;

/// A packed lane has at most so many sixteenths of its bytes, or it is kept as it is.
const MOST_SIXTEENTHS: usize = 15;

fn is_packable(dtype: DType, bytes: usize) -> bool {
    dtype == DType::BF16 && bytes >= LEAST
}

/// Whether most of `layout` would be packed: the rest, such as matrices in 8 bits, is only copied once more.
pub(super) fn pays(layout: &Layout) -> bool {
    let lanes = layout.segments().iter().flat_map(|segment| &segment.lanes);
    let packable = lanes.filter(|lane| is_packable(lane.dtype, lane.bytes)).map(|lane| lane.bytes as u64);
    packable.sum::<u64>() > layout.bytes() / 2
}

/// All of `layout` in main memory, packed where that pays. `progress` and `pace` as for [`loader::fill`].
///
/// # Errors
/// As [`loader::fill`]; main memory has no room.
pub(super) fn read(
    layout: &Layout,
    source: &dyn Source,
    progress: &AtomicU64,
    pace: &Pace,
) -> Result<HostArena> {
    let mut direct = direct::lanes(layout, source);
    loop {
        match read_but(&direct, layout, source, progress, pace)? {
            Read::Packed(arena) => return Ok(arena),
            // Nobody could know before it was read; each time there are fewer.
            Read::Unpackable(segments) => direct.retain(|lane| !segments.contains(&lane.segment)),
        }
        progress.store(0, Ordering::Relaxed);
    }
}

/// What came of reading.
enum Read {
    Packed(HostArena),
    /// Segments whose bf16 lane should rather be kept as it is.
    Unpackable(Vec<usize>),
}

/// [`read`] with these lanes packed directly.
fn read_but(
    direct: &[direct::DirectLane],
    layout: &Layout,
    source: &dyn Source,
    progress: &AtomicU64,
    pace: &Pace,
) -> Result<Read> {
    let all: Vec<usize> = (0..layout.segments().len()).collect();
    let others = |segment: usize, dtype: DType| {
        dtype != DType::BF16 || direct.iter().all(|lane| lane.segment != segment)
    };
    let tables: Vec<Table> =
        groups(layout, &others).iter().map(|group| Table::of(layout, group, &others)).collect();
    let largest = tables.iter().map(Table::bytes).max().unwrap_or(0);
    // As if nothing were packed: what is not written is only addresses.
    let mut packer = Packer {
        memory: HostMemory::new(Table::new(layout, &all).bytes())?,
        used: 0,
        lanes: all.iter().map(|_| Vec::new()).collect(),
    };
    let (mut room, mut other) = (HostMemory::new(largest)?, HostMemory::new(largest)?);
    let mut before: Option<Table> = None;
    for table in tables {
        thread::scope(|scope| -> Result<()> {
            let (packer, full) = (&mut packer, other.bytes());
            let packing = before.take().map(|table| scope.spawn(move || packer.pack(full, &table)));
            let filled = loader::fill(room.bytes_mut(), &table, layout, source, progress, pace);
            let packed = packing.map_or(Ok(()), |packing| {
                packing
                    .join()
                    .unwrap_or_else(|_| Err(Error::Msg("a thread that packs weights died".to_owned())))
            });
            filled.and(packed)
        })?;
        before = Some(table);
        mem::swap(&mut room, &mut other);
    }
    if let Some(table) = before {
        packer.pack(other.bytes(), &table)?;
    }
    let unpackable = packer.pack_directly(direct, progress, pace)?;
    if !unpackable.is_empty() {
        return Ok(Read::Unpackable(unpackable));
    }
    packer.memory.keep(packer.used);
    Ok(Read::Packed(HostArena::new(packer.memory, packer.lanes)))
}

/// Segments whose `wanted` lanes are read together, in order.
fn groups(layout: &Layout, wanted: &dyn Fn(usize, DType) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    let bytes = |(index, segment): (usize, &Segment)| {
        let lanes = segment.lanes.iter().filter(|lane| wanted(index, lane.dtype));
        (index, lanes.map(|lane| lane.bytes).sum::<usize>())
    };
    for (index, bytes) in layout.segments().iter().enumerate().map(bytes).filter(|(_, bytes)| *bytes > 0) {
        match groups.last_mut() {
            Some(group) if bytes <= room => group.push(index),
            _ => {
                groups.push(vec![index]);
                room = GROUP;
            }
        }
        room = room.saturating_sub(bytes);
    }
    groups
}

/// What was packed so far.
struct Packer {
    memory: HostMemory,
    used: usize,
    /// By segment.
    lanes: Vec<Vec<HostLane>>,
}

impl Packer {
    /// Adds the lanes of `direct`, and gives the segments of those that should rather be kept as they are.
    fn pack_directly(
        &mut self,
        direct: &[direct::DirectLane],
        progress: &AtomicU64,
        pace: &Pace,
    ) -> Result<Vec<usize>> {
        let before = self.used;
        let room = self.memory.bytes_mut().get_mut(before..).unwrap_or_default();
        let (packed, used) = line::pack(direct, room, progress, pace)?;
        let mut unpackable = Vec::new();
        for (lane, packed) in direct.iter().zip(packed) {
            let (Some(form), Some(lanes)) = (form(lane.bytes(), &packed), self.lanes.get_mut(lane.segment))
            else {
                unpackable.push(lane.segment);
                continue;
            };
            let start = before + packed.start;
            let range = start..start + form.packed_bytes();
            lanes.push(HostLane { dtype: DType::BF16, range, form: Form::Packed(form) });
        }
        self.used = (before + used).next_multiple_of(ALIGNMENT);
        Ok(unpackable)
    }

    /// Adds the lanes of a group that lies in `full`.
    fn pack(&mut self, full: &[u8], table: &Table) -> Result<()> {
        for (segment, (dtype, range)) in table.lanes() {
            let lane = self.lane(full, *dtype, range)?;
            if let Some(lanes) = self.lanes.get_mut(segment) {
                lanes.push(lane);
            }
        }
        Ok(())
    }

    fn lane(&mut self, full: &[u8], dtype: DType, range: &Range<usize>) -> Result<HostLane> {
        let outside = || Error::Msg(format!("a lane at {range:?} lies outside of its memory"));
        let bytes = full.get(range.clone()).ok_or_else(outside)?;
        let start = self.used;
        let room = self.memory.bytes_mut().get_mut(start..).ok_or_else(outside)?;
        let packed = if is_packable(dtype, bytes.len()) { pack(bytes, room)? } else { None };
        let (length, form) = if let Some(lane) = packed {
            (lane.packed_bytes(), Form::Packed(lane))
        } else {
            room.get_mut(..bytes.len()).ok_or_else(outside)?.copy_from_slice(bytes);
            (bytes.len(), Form::Plain)
        };
        self.used = (start + length).next_multiple_of(ALIGNMENT);
        Ok(HostLane { dtype, range: start..start + length, form })
    }
}

/// A lane that was read before.
struct InMemory<'a>(&'a [u16]);

impl Tiles for InMemory<'_> {
    fn bytes(&self) -> usize {
        mem::size_of_val(self.0)
    }

    /// Nothing: the loader has counted it.
    fn read(&self, tile: usize, numbers: &mut [u16]) -> Result<u64> {
        let from = self.0.get(tile * TILE..).and_then(|rest| rest.get(..numbers.len()));
        numbers.copy_from_slice(from.ok_or_else(|| Error::Msg(format!("no tile {tile} in a lane")))?);
        Ok(0)
    }
}

/// The form of a lane of `bytes` that was packed so; `None` if it should rather be kept as it is.
fn form(bytes: usize, packed: &Packed) -> Option<Lane> {
    let length: usize = packed.blobs.iter().map(|blob| blob.bytes).sum();
    Lane::new(bytes, &packed.blobs).filter(|_| length <= bytes / 16 * MOST_SIXTEENTHS)
}

/// Packs a lane to the beginning of `room`; `None` if it should be kept as it is, and `room` holds anything.
fn pack(bytes: &[u8], room: &mut [u8]) -> Result<Option<Lane>> {
    let numbers: &[u16] = bytemuck::try_cast_slice(bytes)
        .map_err(|error| Error::Msg(format!("weights out of line: {error}")))?;
    let (packed, _) = line::pack(&[InMemory(numbers)], room, &AtomicU64::new(0), &Pace::default())?;
    Ok(packed.first().and_then(|packed| form(bytes.len(), packed)))
}

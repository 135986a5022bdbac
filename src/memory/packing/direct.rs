//! Lanes whose numbers lie in the files as the net wants them: each tile is read, packed and put in its place by one thread,
//! within its cache, so that the numbers themselves never reach main memory.
//!
//! Reading first and packing what was read costs three more passes over main memory. Must not know devices or nets. Caller:
//! `packing`.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::{mem, thread};

use candle_core::{DType, Error, Result};

use super::super::loader;
use super::super::packed::lane::{Blob, TILE_BYTES};
use super::super::packed::{self, TILE};
use super::is_packable;
use crate::models::weights::{ALIGNMENT, Content, Layout, Source};

/// A lane that can be packed straight from its files.
pub(super) struct DirectLane {
    pub(super) segment: usize,
    pub(super) bytes: usize,
    /// In the lane's order; what lies between them is 0.
    pieces: Vec<Piece>,
}

/// Bytes of a file and where in the lane they belong.
struct Piece {
    place: Range<usize>,
    file: Arc<File>,
    offset: u64,
    /// Tensor and file, for errors.
    whose: String,
}

/// A lane as it was packed.
pub(super) struct Packed {
    /// Where its first blob begins.
    pub(super) start: usize,
    pub(super) blobs: Vec<Blob>,
}

/// The bf16 lanes of `layout` of which every number lies plainly in a file.
pub(super) fn lanes(layout: &Layout, source: &dyn Source) -> Vec<DirectLane> {
    let segments = layout.segments().iter().enumerate();
    let lanes = segments.flat_map(|(segment, of)| of.lanes.iter().map(move |lane| (segment, lane)));
    lanes
        .filter(|(_, lane)| is_packable(lane.dtype, lane.bytes))
        .filter_map(|(segment, lane)| {
            let pieces = pieces(layout, source, segment)?;
            Some(DirectLane { segment, bytes: lane.bytes, pieces })
        })
        .collect()
}

fn pieces(layout: &Layout, source: &dyn Source, segment: usize) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let own = |entry: &&crate::models::weights::Entry| entry.segment == segment && entry.dtype == DType::BF16;
    for entry in layout.entries().iter().filter(own) {
        if entry.content != Content::Whole || entry.channels_last {
            return None;
        }
        let mut at = entry.offset;
        for extent in source.extents(&entry.key, None)? {
            if extent.dtype != DType::BF16 {
                return None;
            }
            let end = at + 2 * extent.elements;
            let whose = format!("{} in {}", entry.key, source.origin(&entry.key));
            pieces.push(Piece { place: at..end, file: extent.file, offset: extent.offset, whose });
            at = end;
        }
        if at != entry.offset + entry.bytes() {
            // Whoever reads it otherwise says what is wrong with it.
            return None;
        }
    }
    pieces.sort_by_key(|piece| piece.place.start);
    Some(pieces)
}

/// The line before the room: threads take tiles in order and get their room in order, so that blobs lie side by side.
struct Line<'a> {
    /// Tile whose turn it is.
    next: usize,
    /// Bytes of the room that are taken.
    used: usize,
    room: &'a mut [u8],
    packed: Vec<Packed>,
    problem: Option<Error>,
}

/// Packs `lanes` to the beginning of `room`: where each lies, and how much of the room they take together. `progress` counts
/// the numbers' bytes.
///
/// # Errors
/// A file cannot be read or ends early; `stop`; no room.
pub(super) fn pack(
    lanes: &[DirectLane],
    room: &mut [u8],
    progress: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(Vec<Packed>, usize)> {
    let tiles: Vec<(usize, usize)> = lanes
        .iter()
        .enumerate()
        .flat_map(|(lane, of)| (0..of.bytes.div_ceil(TILE_BYTES)).map(move |tile| (lane, tile)))
        .collect();
    let line = Line { next: 0, used: 0, room, packed: Vec::with_capacity(lanes.len()), problem: None };
    let (ticket, line, moved) = (AtomicUsize::new(0), Mutex::new(line), Condvar::new());
    let work = || {
        let (mut numbers, mut scratch) = (vec![0u16; TILE], Vec::new());
        loop {
            let mine = ticket.fetch_add(1, Ordering::Relaxed);
            let Some(&(lane, tile)) = tiles.get(mine) else { return };
            let Some(of) = lanes.get(lane) else { return };
            let numbers = numbers.get_mut(..(of.bytes / 2 - tile * TILE).min(TILE)).unwrap_or_default();
            let read = if stop.load(Ordering::Relaxed) {
                Err(Error::Msg("loading was stopped".to_owned()))
            } else {
                of.read(tile, numbers)
            };
            let packed = read.is_ok() && packed::pack(numbers, &mut scratch);
            let raw = bytemuck::cast_slice(numbers);
            let blob: &[u8] = if packed { &scratch } else { raw };
            let waiting = line.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = moved.wait_while(waiting, |line| line.next != mine && line.problem.is_none());
            let mut turn = turn.unwrap_or_else(PoisonError::into_inner);
            let place = read.and_then(|bytes| {
                progress.fetch_add(bytes, Ordering::Relaxed);
                turn.take(tile == 0, blob.len(), !packed)
            });
            turn.next += 1;
            let place = match place {
                Ok(place) if turn.problem.is_none() => place,
                Ok(_) => return,
                Err(error) => {
                    turn.problem.get_or_insert(error);
                    moved.notify_all();
                    return;
                }
            };
            drop(turn);
            moved.notify_all();
            if let Some(place) = place.get_mut(..blob.len()) {
                place.copy_from_slice(blob);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..loader::threads().min(tiles.len()) {
            scope.spawn(work);
        }
    });
    let line = line.into_inner().unwrap_or_else(PoisonError::into_inner);
    match line.problem {
        Some(error) => Err(error),
        None => Ok((line.packed, line.used)),
    }
}

impl<'a> Line<'a> {
    /// The next `length` bytes of the room, up to a multiple of what blobs are multiples of.
    fn take(&mut self, first: bool, length: usize, raw: bool) -> Result<&'a mut [u8]> {
        if first {
            // Where a lane may begin.
            let gap = self.used.next_multiple_of(ALIGNMENT.max(packed::ALIGN)) - self.used;
            self.cut(gap)?;
            self.packed.push(Packed { start: self.used, blobs: Vec::new() });
        }
        let bytes = length.next_multiple_of(packed::ALIGN);
        if let Some(lane) = self.packed.last_mut() {
            lane.blobs.push(Blob { bytes, raw });
        }
        self.cut(bytes)
    }

    fn cut(&mut self, bytes: usize) -> Result<&'a mut [u8]> {
        let Some((place, rest)) = mem::take(&mut self.room).split_at_mut_checked(bytes) else {
            return Err(Error::Msg(
                "packed weights are longer than the weights; please report this".to_owned(),
            ));
        };
        self.room = rest;
        self.used += bytes;
        Ok(place)
    }
}

impl DirectLane {
    /// The numbers of a tile, and how many bytes of them are tensors'.
    fn read(&self, tile: usize, numbers: &mut [u16]) -> Result<u64> {
        let from = tile * TILE_BYTES;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        let tile = from..from + bytes.len();
        let mut read = 0;
        let mut end = from;
        let first = self.pieces.partition_point(|piece| piece.place.end <= from);
        for piece in self.pieces.iter().skip(first).take_while(|piece| piece.place.start < tile.end) {
            let part = piece.place.start.max(tile.start)..piece.place.end.min(tile.end);
            let gap = bytes.get_mut(end - from..part.start - from).unwrap_or_default();
            gap.fill(0);
            let Some(into) = bytes.get_mut(part.start - from..part.end - from) else { continue };
            let offset = piece.offset + (part.start - piece.place.start) as u64;
            let failed = |error| Error::Msg(format!("{}: {error}", piece.whose));
            piece.file.read_exact_at(into, offset).map_err(failed)?;
            read += part.len() as u64;
            end = part.end;
        }
        bytes.get_mut(end - from..).unwrap_or_default().fill(0);
        Ok(read)
    }
}

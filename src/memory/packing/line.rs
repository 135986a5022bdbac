//! Tiles are read, packed and put side by side: each by one thread, within its cache, in order.
//!
//! Knows no files. Callers: `packing` (lanes that were read before), `direct` (lanes in files).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::{mem, thread};

use candle_core::{Error, Result};

use super::super::loader;
use super::super::pace::Pace;
use super::super::packed::lane::{Blob, TILE_BYTES};
use super::super::packed::{self, TILE};
use crate::models::weights::ALIGNMENT;

/// A bf16 lane that can be read tile by tile.
pub(super) trait Tiles: Sync {
    /// Of the whole lane, two a number.
    fn bytes(&self) -> usize;

    /// Fills `numbers` with tile number `tile`, as bits; how many bytes were read for it.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&self, tile: usize, numbers: &mut [u16]) -> Result<u64>;
}

/// A lane as it was packed.
pub(super) struct Packed {
    /// Where its first blob begins.
    pub(super) start: usize,
    pub(super) blobs: Vec<Blob>,
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
/// the bytes that were read.
///
/// As many threads as read files: with a third of them a load took half as long again, for packing waits for memory that
/// nobody has touched yet, not for arithmetic (a thread packs 5 GB/s within its cache).
///
/// # Errors
/// A tile cannot be read; `pace` was stopped; no room.
pub(super) fn pack<L: Tiles>(
    lanes: &[L],
    room: &mut [u8],
    progress: &AtomicU64,
    pace: &Pace,
) -> Result<(Vec<Packed>, usize)> {
    let tiles: Vec<(usize, usize)> = lanes
        .iter()
        .enumerate()
        .flat_map(|(lane, of)| (0..of.bytes().div_ceil(TILE_BYTES)).map(move |tile| (lane, tile)))
        .collect();
    let line = Line { next: 0, used: 0, room, packed: Vec::with_capacity(lanes.len()), problem: None };
    let (ticket, line, moved) = (AtomicUsize::new(0), Mutex::new(line), Condvar::new());
    let work = || {
        let (mut numbers, mut scratch) = (vec![0u16; TILE], Vec::new());
        loop {
            let mine = ticket.fetch_add(1, Ordering::Relaxed);
            let Some(&(lane, tile)) = tiles.get(mine) else { return };
            let Some(of) = lanes.get(lane) else { return };
            let numbers = numbers.get_mut(..(of.bytes() / 2 - tile * TILE).min(TILE)).unwrap_or_default();
            let read = pace.keep().and_then(|()| of.read(tile, numbers));
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

//! A packed lane: its blobs, and how it unpacks over itself on the device.
//!
//! A blob is shorter than its numbers. So a lane's blobs are copied to the end of the memory that the numbers will fill, and
//! unpacked from the front: what is written reaches only blobs that were read before. How far that goes at once is a wave;
//! each wave leaves three tenths less to do. At the end there is no room for another wave, so the last blobs are copied
//! elsewhere, to a [`SLOT`]. No memory for a second copy, and a dozen commands a lane: a driver takes only so many before the
//! program that gives them has to wait.
//!
//! Pure: must not know memory or devices. Callers: `packing` (makes lanes), `transfer` and `cuda::bus` (carry them out).

use std::ops::Range;

use super::{ALIGN, TILE};

/// Bytes of a tile's numbers.
pub const TILE_BYTES: usize = 2 * TILE;

/// Memory on the device for the blobs that do not unpack in place. The more, the fewer waves: 6 for a block of 283 MB, 8 for 680 MB.
pub const SLOT: usize = 16 << 20;

/// Slots of a device: while one is read the next is filled.
pub const SLOTS: usize = 3;

/// Memory on the device that packed copies take in all, from the first one on. Part of what budgets keep back.
pub const STAGING: usize = SLOTS * SLOT;

/// Two whole tiles at least, or a lane's last whole tile could have no room.
const _: () = assert!(SLOT >= 3 * TILE_BYTES);

/// Set in [`Wave::starts`] for a tile that is kept as it is.
pub const RAW: u32 = 1 << 31;

/// How a tile is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// A multiple of [`ALIGN`].
    pub bytes: usize,
    /// Not packed: its numbers as they are.
    pub raw: bool,
}

/// The blobs of a lane, which lie one behind the other in main memory, and how they unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    bytes: usize,
    /// In [`ALIGN`]s from the first blob, with [`RAW`]; one more than there are tiles.
    starts: Vec<u32>,
    /// Tiles that unpack in place.
    in_place: usize,
    waves: Vec<Range<usize>>,
}

/// Tiles that unpack at once: none of them writes where one of them, or of the later ones, is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wave<'a> {
    /// Its blobs lie in a slot, not in the lane.
    pub staged: bool,
    /// Number of the first tile: it fills bytes from this times [`TILE_BYTES`] on.
    pub first: usize,
    /// A tile each: [`ALIGN`]s from the lane's first blob, or from the first one in the slot; [`RAW`] is set for a tile that
    /// is kept as it is.
    pub starts: &'a [u32],
    /// [`ALIGN`]s to take from each start.
    pub skip: u32,
}

impl Lane {
    /// A lane of `bytes` unpacked, in tiles of [`TILE_BYTES`] of which the last may be shorter. `None` if it cannot unpack
    /// in place: it should be kept as it is.
    pub fn new(bytes: usize, blobs: &[Blob]) -> Option<Self> {
        let fits = |(tile, blob): (usize, &Blob)| {
            let numbers = TILE_BYTES.min(bytes - tile * TILE_BYTES);
            blob.bytes.is_multiple_of(ALIGN) && blob.bytes <= numbers.next_multiple_of(ALIGN)
        };
        if blobs.len() != bytes.div_ceil(TILE_BYTES) || !blobs.iter().enumerate().all(fits) {
            return None;
        }
        let mut starts = Vec::with_capacity(blobs.len() + 1);
        let mut end = 0;
        for blob in blobs {
            starts.push(end | if blob.raw { RAW } else { 0 });
            end += u32::try_from(blob.bytes / ALIGN).ok()?;
            if end >= RAW {
                return None;
            }
        }
        starts.push(end);
        let mut staged = 0;
        let in_slot = |blob: &&Blob| {
            staged += blob.bytes;
            staged <= SLOT
        };
        let in_place = blobs.len() - blobs.iter().rev().take_while(in_slot).count();
        let mut lane = Self { bytes, starts, in_place, waves: Vec::new() };
        let mut first = 0;
        while first < in_place {
            let place = lane.offset()? + lane.start(first);
            let next = (place / TILE_BYTES).min(in_place);
            if next <= first {
                return None;
            }
            lane.waves.push(first..next);
            first = next;
        }
        lane.waves.push(in_place..blobs.len());
        Some(lane)
    }

    /// Of the numbers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of all blobs.
    pub fn packed_bytes(&self) -> usize {
        self.start(self.starts.len().saturating_sub(1))
    }

    /// The blobs that unpack in place: bytes from the first blob's start.
    pub fn in_place(&self) -> Range<usize> {
        0..self.start(self.in_place)
    }

    /// Where the first of them goes: bytes from the lane's start, a multiple of [`ALIGN`]. `None`: no room, which
    /// [`Lane::new`] refuses.
    pub fn offset(&self) -> Option<usize> {
        (self.bytes / ALIGN * ALIGN).checked_sub(self.start(self.in_place))
    }

    /// The blobs that go to a slot, at most [`SLOT`] bytes: bytes from the first blob's start.
    pub fn staged(&self) -> Range<usize> {
        self.start(self.in_place)..self.packed_bytes()
    }

    /// What unpacks after what.
    pub fn waves(&self) -> impl Iterator<Item = Wave<'_>> {
        self.waves.iter().map(|tiles| {
            let staged = tiles.start >= self.in_place;
            Wave {
                staged,
                first: tiles.start,
                starts: self.starts.get(tiles.clone()).unwrap_or_default(),
                skip: if staged { (self.start(self.in_place) / ALIGN) as u32 } else { 0 },
            }
        })
    }

    fn start(&self, tile: usize) -> usize {
        self.starts.get(tile).map_or(0, |start| (start & !RAW) as usize * ALIGN)
    }
}

/// A tile of a [`Wave`], for whoever unpacks without a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Bytes from the lane's first blob, or from the first one in the slot.
    pub blob: Range<usize>,
    /// It is kept as it is.
    pub raw: bool,
    /// Bytes of the lane that it fills.
    pub bytes: Range<usize>,
}

impl Wave<'_> {
    /// Its tiles; `lane` is its lane.
    pub fn tiles<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = Tile> {
        let skip = self.skip as usize * ALIGN;
        self.starts.iter().zip(self.first..).map(move |(start, tile)| Tile {
            blob: lane.start(tile) - skip..lane.start(tile + 1) - skip,
            raw: start & RAW != 0,
            bytes: tile * TILE_BYTES..lane.bytes.min((tile + 1) * TILE_BYTES),
        })
    }
}

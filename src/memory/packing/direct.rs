//! Lanes whose numbers lie in the files as the net wants them: they are packed as they are read, so that the numbers
//! themselves never reach main memory. Reading first and packing what was read costs three more passes over it.
//!
//! Must not know devices or nets. Caller: `packing`.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use candle_core::{DType, Error, Result};

use super::super::packed::lane::TILE_BYTES;
use super::is_packable;
use super::line::Tiles;
use crate::models::weights::{Content, Layout, Source};

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

impl Tiles for DirectLane {
    fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts tensors' bytes, not what lies between them.
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

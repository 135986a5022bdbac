//! Rows of a file to 8 bits and a scale each, on the thread that read them.
//!
//! Rows are rounded in f32 from the numbers that the file holds, as [`Rounding`] does it for tensors, bit for bit. A job has
//! whole rows. Must not know who reads. Caller: the loader.

use candle_core::{DType, Error, Result};

use super::{READ, convert, numbers_mut, room};
use crate::models::ops::Rounding;
use crate::models::weights::{Entry, Extent};

/// Where some rows of a matrix go.
pub(super) struct Rows<'a> {
    /// Of the matrix's numbers.
    pub(super) entry: &'a Entry,
    rounding: Rounding,
    /// A byte a number.
    numbers: &'a mut [u8],
    /// An f32 a row.
    scales: &'a mut [u8],
}

/// The two places of a matrix, which lie in different lanes.
#[derive(Default)]
pub(super) struct Halves<'a> {
    pub(super) numbers: Option<(&'a Entry, Rounding, &'a mut [u8])>,
    pub(super) scales: Option<&'a mut [u8]>,
}

impl<'a> Halves<'a> {
    /// Both of them.
    pub(super) fn rows(self) -> Result<Rows<'a>> {
        match (self.numbers, self.scales) {
            (Some((entry, rounding, numbers)), Some(scales)) => Ok(Rows { entry, rounding, numbers, scales }),
            (Some((entry, ..)), None) => {
                Err(Error::Msg(format!("{}: a place for numbers and none for scales", entry.key)))
            }
            (None, _) => Err(Error::Msg("a place for scales and none for numbers".to_owned())),
        }
    }
}

impl<'a> Rows<'a> {
    /// Memory.
    pub(super) fn bytes(&self) -> usize {
        self.numbers.len() + self.scales.len()
    }

    fn columns(&self) -> usize {
        self.entry.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Whether every extent begins with a row.
    pub(super) fn begin_with(&self, extents: &[Extent]) -> bool {
        extents.iter().all(|extent| extent.elements.is_multiple_of(self.columns()))
    }

    /// Parts of `extents` that a thread reads at once, with the rows that they become.
    pub(super) fn split(self, extents: Vec<Extent>) -> impl Iterator<Item = (Rows<'a>, Extent)> {
        let columns = self.columns();
        let Self { entry, rounding, mut numbers, mut scales } = self;
        extents.into_iter().flat_map(move |extent| pieces(extent, columns)).map(move |extent| {
            let (piece, rest) = std::mem::take(&mut numbers).split_at_mut(extent.elements);
            let (scale, others) = std::mem::take(&mut scales).split_at_mut(extent.elements / columns * 4);
            (numbers, scales) = (rest, others);
            (Rows { entry, rounding, numbers: piece, scales: scale }, extent)
        })
    }

    /// Rounds `raw`, numbers of `dtype` of all rows, and says how many bytes are in place.
    pub(super) fn round(self, raw: &[u8], dtype: DType) -> Result<u64> {
        let (columns, bytes) = (self.columns(), self.bytes());
        let mut wide = vec![0u64; (columns * 4).div_ceil(8)];
        let wide = room(&mut wide, columns * 4);
        let places = self.numbers.chunks_exact_mut(columns).zip(numbers_mut::<f32>(self.scales)?);
        for (row, (numbers, scale)) in raw.chunks_exact(columns * dtype.size_in_bytes()).zip(places) {
            convert(row, dtype, wide, DType::F32)?;
            *scale = self.rounding.row(super::numbers(wide)?, numbers);
        }
        Ok(bytes as u64)
    }
}

/// Whole rows of `columns`, about [`READ`] bytes of them.
fn pieces(extent: Extent, columns: usize) -> impl Iterator<Item = Extent> {
    let size = extent.dtype.size_in_bytes();
    let most = (READ / (columns * size)).max(1) * columns;
    (0..extent.elements).step_by(most).map(move |first| Extent {
        offset: extent.offset + (first * size) as u64,
        elements: most.min(extent.elements - first),
        ..extent.clone()
    })
}

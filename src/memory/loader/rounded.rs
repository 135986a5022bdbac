//! Rows of a file to 8 bits and a scale each, on the thread that read them.
//!
//! Rows are rounded in f32 from the numbers that the file holds, as [`Rounding`] does it for tensors, bit for bit. Must not
//! know who reads. Caller: the loader's jobs.

use candle_core::{DType, Result};

use super::convert::{convert, numbers, numbers_mut, room};
use crate::models::ops::Rounding;

/// Rounds `raw`, whole rows of `columns` numbers of a dtype, to a byte a number and an f32 a row.
pub(super) fn round(
    rounding: Rounding,
    columns: usize,
    (raw, dtype): (&[u8], DType),
    into: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let mut wide = vec![0u64; (columns * size_of::<f32>()).div_ceil(8)];
    let wide = room(&mut wide, columns * size_of::<f32>());
    let places = into.chunks_exact_mut(columns).zip(numbers_mut::<f32>(scales)?);
    for (row, (into, scale)) in raw.chunks_exact(columns * dtype.size_in_bytes()).zip(places) {
        convert(row, dtype, wide, DType::F32)?;
        *scale = rounding.row(numbers(wide)?, into);
    }
    Ok(())
}

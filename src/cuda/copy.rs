//! Copies, gathers and T5's bias: `kernels/copy.cu` and `kernels/bias.cu` on tensors, so that none of it needs candle's
//! kernels, which the driver compiles at first use. Callers: `models::ops`.

use std::ffi::{c_int, c_void};

use candle_core::{DType, Device, Result, Tensor};

use super::launch::{self, KernelError, Rows, Stream, View};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_copy(
        x: *const c_void,
        x_outer: i64,
        x_row: i64,
        x_format: c_int,
        y: *mut c_void,
        y_outer: i64,
        y_row: i64,
        y_format: c_int,
        outers: i64,
        rows: i64,
        columns: i64,
        stream: Stream,
    ) -> c_int;
    fn marquee_gather(
        table: *const c_void,
        indices: *const u32,
        y: *mut c_void,
        count: i64,
        columns: i64,
        format: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_relative_bias(
        table: *const c_void,
        buckets: *const u32,
        bias: *mut c_void,
        heads: c_int,
        length: c_int,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// Writes `x` to `y`, of the same shape and any of the three formats, rounding to nearest even; either may be a part of a
/// wider tensor. In the order of `y`'s stream. False, and nothing written, for tensors that it does not take.
///
/// # Errors
/// The card failed.
#[allow(unsafe_code)]
pub fn copy_into(x: &Tensor, y: &Tensor) -> Result<bool> {
    if launch::card(x.device()).is_none() || launch::card(y.device()).is_none() || x.dims() != y.dims() {
        return Ok(false);
    }
    let (Some(x_format), Some(y_format)) = (launch::format(x.dtype()), launch::format(y.dtype())) else {
        return Ok(false);
    };
    let (from, to) = (View::of(x)?, View::of(y)?);
    let (Some(x_rows), Some(y_rows)) = (Rows::of(from.layout), Rows::of(to.layout)) else { return Ok(false) };
    let rows = x_rows.rows.min(y_rows.rows);
    let (Some(x_rows), Some(y_rows)) = (x_rows.split(rows), y_rows.split(rows)) else { return Ok(false) };
    // SAFETY: both have `blocks` times `rows` of `columns` numbers at these distances, checked above; the stream is theirs.
    let code = unsafe {
        marquee_copy(
            from.address,
            x_rows.block_distance as i64,
            x_rows.distance as i64,
            x_format,
            to.address,
            y_rows.block_distance as i64,
            y_rows.distance as i64,
            y_format,
            x_rows.blocks as i64,
            rows as i64,
            x_rows.columns as i64,
            to.stream(),
        )
    };
    launch::check("marquee_copy", code)?;
    Ok(true)
}

/// Rows `indices` of `table` (rows, columns; contiguous): (indices, columns). `None` if it does not take the table.
///
/// # Errors
/// An index beyond the table, no room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn gather(table: &Tensor, indices: &[u32]) -> Result<Option<Tensor>> {
    let (Some(card), Some(format)) = (launch::card(table.device()), launch::format(table.dtype())) else {
        return Ok(None);
    };
    if !table.is_contiguous() {
        return Ok(None);
    }
    let (rows, columns) = table.dims2()?;
    within("marquee_gather", indices, rows)?;
    let list = Tensor::from_slice(indices, indices.len(), &Device::Cuda(card.clone()))?;
    let y = launch::empty((indices.len(), columns), table.dtype(), card)?;
    let (from, by, to) = (View::of(table)?, View::of(&list)?, View::of(&y)?);
    // SAFETY: the indices are rows of the contiguous table, checked above; y is contiguous with a row for each.
    let code = unsafe {
        marquee_gather(
            from.address,
            by.address.cast(),
            to.address,
            indices.len() as i64,
            columns as i64,
            format,
            from.stream(),
        )
    };
    launch::check("marquee_gather", code)?;
    drop(to);
    Ok(Some(y))
}

/// (1, heads, length, length): the row of `table` (buckets, heads; contiguous) that `buckets` (2 length - 1) names for
/// key - query + length - 1. `None` if it does not take the table.
///
/// # Errors
/// A bucket beyond the table, no room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn relative_bias(table: &Tensor, buckets: &[u32]) -> Result<Option<Tensor>> {
    let (Some(card), Some(format)) = (launch::card(table.device()), launch::format(table.dtype())) else {
        return Ok(None);
    };
    let (rows, heads) = table.dims2()?;
    if !table.is_contiguous() || heads > 65535 {
        return Ok(None);
    }
    within("marquee_relative_bias", buckets, rows)?;
    let length = buckets.len().div_ceil(2);
    let list = Tensor::from_slice(buckets, buckets.len(), &Device::Cuda(card.clone()))?;
    let bias = launch::empty((1, heads, length, length), table.dtype(), card)?;
    let (from, by, to) = (View::of(table)?, View::of(&list)?, View::of(&bias)?);
    // SAFETY: the buckets are rows of the contiguous table, checked above; the bias is contiguous.
    let code = unsafe {
        marquee_relative_bias(
            from.address,
            by.address.cast(),
            to.address,
            heads as c_int,
            length as c_int,
            format,
            from.stream(),
        )
    };
    launch::check("marquee_relative_bias", code)?;
    drop(to);
    Ok(Some(bias))
}

/// `x` in another of the three formats, contiguous.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
    let (Some(card), Some(_), Some(_)) =
        (launch::card(x.device()), launch::format(x.dtype()), launch::format(dtype))
    else {
        return Ok(None);
    };
    let y = launch::empty(x.shape(), dtype, card)?;
    Ok(copy_into(x, &y)?.then_some(y))
}

fn within(kernel: &'static str, indices: &[u32], rows: usize) -> Result<()> {
    match indices.iter().find(|&&index| index as usize >= rows) {
        None => Ok(()),
        Some(index) => Err(KernelError::Unfit {
            kernel,
            expected: "indices of the table's rows",
            found: format!("{index} of {rows}"),
        }
        .into()),
    }
}

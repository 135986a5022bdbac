//! Elementwise formulas: `kernels/activation.cu` on tensors. Each function gives `None` for tensors that it does not take
//! (not on a card, other formats, rows that are no multiple of 16 bytes). Callers: `models::ops`.

use std::ffi::{c_int, c_void};

use candle_core::{Result, Tensor};

use super::launch::{self, Rows, Stream, View};

/// Numbers as in `activation.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formula {
    /// GELU, tanh form.
    GeluTanh = 0,
    /// GELU, error function.
    GeluErf = 1,
    /// `x σ(x)`.
    Silu = 2,
    /// `x σ(1.702 x)`.
    QuickGelu = 3,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_activate(
        x: *const c_void,
        x_row: i64,
        y: *mut c_void,
        y_row: i64,
        rows: i64,
        columns: i64,
        formula: c_int,
        format: c_int,
        stream: Stream,
    ) -> c_int;
    fn marquee_gated(
        x: *const c_void,
        x_row: i64,
        half: i64,
        y: *mut c_void,
        y_row: i64,
        rows: i64,
        columns: i64,
        formula: c_int,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// `f(x)`.
///
/// # Errors
/// No room on the card, or the card failed.
pub fn activate(x: &Tensor, formula: Formula) -> Result<Option<Tensor>> {
    let (Some(card), Some(_)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(None);
    };
    let y = launch::empty(x.shape(), x.dtype(), card)?;
    Ok(activate_into(x, formula, &y)?.then_some(y))
}

/// Writes `f(x)` to `y`, of `x`'s shape, which may be `x` itself or a part of a wider tensor; false if it does not.
///
/// # Errors
/// The card failed.
#[allow(unsafe_code)]
pub fn activate_into(x: &Tensor, formula: Formula, y: &Tensor) -> Result<bool> {
    if launch::card(x.device()).is_none() || x.dims() != y.dims() || x.dtype() != y.dtype() {
        return Ok(false);
    }
    let Some(format) = launch::format(x.dtype()) else { return Ok(false) };
    let (from, to) = (View::of(x)?, View::of(y)?);
    let (Some(x_rows), Some(y_rows)) = (Rows::of(from.layout), Rows::of(to.layout)) else { return Ok(false) };
    let rows = x_rows.rows.min(y_rows.rows);
    let (Some(x_rows), Some(y_rows)) = (x_rows.split(rows), y_rows.split(rows)) else { return Ok(false) };
    if !(from.packed(&x_rows) && to.packed(&y_rows)) {
        return Ok(false);
    }
    for block in 0..x_rows.blocks {
        // SAFETY: both tensors have `blocks` times `rows` of `columns` numbers at these distances, checked above; the
        // stream is theirs, and they outlive the launch in its order.
        let code = unsafe {
            marquee_activate(
                launch::advance(from.address, block * x_rows.block_distance, x.dtype()),
                x_rows.distance as i64,
                launch::advance(to.address, block * y_rows.block_distance, y.dtype()),
                y_rows.distance as i64,
                rows as i64,
                x_rows.columns as i64,
                formula as c_int,
                format,
                from.stream(),
            )
        };
        launch::check("marquee_activate", code)?;
    }
    Ok(true)
}

/// `f(a) b` of `x` = (…, a and b side by side), half as wide.
///
/// # Errors
/// No room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn gated(x: &Tensor, formula: Formula) -> Result<Option<Tensor>> {
    let (Some(card), Some(format)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(None);
    };
    let from = View::of(x)?;
    let Some(rows) = Rows::of(from.layout).filter(|rows| rows.blocks == 1) else { return Ok(None) };
    let half = rows.columns / 2;
    let whole = Rows { columns: half, ..rows };
    if !rows.columns.is_multiple_of(2) || !from.packed(&whole) {
        return Ok(None);
    }
    let mut shape = x.dims().to_vec();
    if let Some(columns) = shape.last_mut() {
        *columns = half;
    }
    let y = launch::empty(shape, x.dtype(), card)?;
    let to = View::of(&y)?;
    // SAFETY: as above; `y` is contiguous with half of the columns.
    let code = unsafe {
        marquee_gated(
            from.address,
            rows.distance as i64,
            half as i64,
            to.address,
            half as i64,
            rows.rows as i64,
            half as i64,
            formula as c_int,
            format,
            from.stream(),
        )
    };
    launch::check("marquee_gated", code)?;
    drop(to);
    Ok(Some(y))
}

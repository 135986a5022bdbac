//! Linear layers through cuBLASLt: `shim/linear.cpp` on tensors. Functions give `None` for tensors that they do not take
//! (not on a card, other formats, rows that are no multiple of 16 bytes). Callers: `models::ops`.

use std::ffi::{c_int, c_void};
use std::ptr;

use candle_core::{Result, Tensor};

use super::launch::{self, Rows, Stream, View};

/// As in `linear.cpp`.
#[repr(C)]
pub(super) struct Arguments {
    pub(super) rows: i64,
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    pub(super) x_row: i64,
    pub(super) w_row: i64,
    pub(super) y_row: i64,
    pub(super) format: i32,
    pub(super) y_format: i32,
    pub(super) activation: i32,
    pub(super) scales_by_row: i32,
    pub(super) fast: i32,
    pub(super) candidate: i32,
    pub(super) residual_row: i64,
}

#[allow(unsafe_code)]
unsafe extern "C" {
    pub(super) fn marquee_linear(
        arguments: *const Arguments,
        x: *const c_void,
        w: *const c_void,
        bias: *const c_void,
        residual: *const c_void,
        x_scale: *const f32,
        w_scale: *const f32,
        y: *mut c_void,
        stream: Stream,
    ) -> c_int;
}

/// What follows the bias before the one rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    None = 0,
    /// GELU, tanh form.
    GeluTanh = 1,
}

/// `f(x Wᵀ + b)`: x (…, inputs), weight (outputs, inputs), bias (outputs), all of one format.
///
/// # Errors
/// No room on the card, or cuBLASLt failed.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let Some(card) = launch::card(x.device()) else { return Ok(None) };
    if launch::format(x.dtype()).is_none() {
        return Ok(None);
    }
    let mut shape = x.dims().to_vec();
    if let Some(columns) = shape.last_mut() {
        *columns = weight.dim(0)?;
    }
    let y = launch::empty(shape, x.dtype(), card)?;
    Ok(linear_into(x, weight, bias, epilogue, &y)?.then_some(y))
}

/// `residual + x Wᵀ + b`, rounded once: as [`linear`], residual (…, outputs).
///
/// # Errors
/// As [`linear`].
pub fn linear_onto(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: &Tensor,
) -> Result<Option<Tensor>> {
    let Some(card) = launch::card(x.device()) else { return Ok(None) };
    if launch::format(x.dtype()).is_none() {
        return Ok(None);
    }
    let y = launch::empty(residual.shape(), x.dtype(), card)?;
    Ok(product(x, weight, bias, (Epilogue::None, Some(residual)), &y)?.then_some(y))
}

/// [`linear`] written to `y` (…, outputs), which may be a part of a wider tensor; false, and nothing written, if it does
/// not take the tensors.
///
/// # Errors
/// cuBLASLt failed.
pub fn linear_into(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
    y: &Tensor,
) -> Result<bool> {
    product(x, weight, bias, (epilogue, None), y)
}

#[allow(unsafe_code)]
fn product(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    (epilogue, residual): (Epilogue, Option<&Tensor>),
    y: &Tensor,
) -> Result<bool> {
    let (Some(_), Some(format)) = (launch::card(x.device()), launch::format(x.dtype())) else {
        return Ok(false);
    };
    let same = |tensor: &Tensor| tensor.dtype() == x.dtype() && launch::card(tensor.device()).is_some();
    if !same(weight)
        || !same(y)
        || residual.is_some_and(|residual| !same(residual) || residual.dims() != y.dims())
    {
        return Ok(false);
    }
    if bias.is_some_and(|bias| !same(bias) || !bias.is_contiguous()) {
        return Ok(false);
    }
    let (from, by, to) = (View::of(x)?, View::of(weight)?, View::of(y)?);
    let bias = bias.map(View::of).transpose()?;
    let residual = residual.map(View::of).transpose()?;
    let (Some(x_rows), Some(w_rows), Some(y_rows)) =
        (Rows::of(from.layout), Rows::of(by.layout), Rows::of(to.layout))
    else {
        return Ok(false);
    };
    let count = x_rows.rows.min(y_rows.rows);
    let (Some(x_rows), Some(y_rows)) = (x_rows.split(count), y_rows.split(count)) else { return Ok(false) };
    if x_rows.columns != w_rows.columns
        || w_rows.blocks != 1
        || w_rows.rows != y_rows.columns
        || x_rows.blocks != y_rows.blocks
        || !(from.packed(&x_rows) && by.packed(&w_rows) && to.packed(&y_rows))
        || bias
            .as_ref()
            .is_some_and(|bias| !bias.aligned(16) || bias.layout.shape().elem_count() != w_rows.rows)
    {
        return Ok(false);
    }
    let residual_rows = match &residual {
        Some(view) => match Rows::of(view.layout).and_then(|rows| rows.split(count)) {
            Some(rows) if rows.blocks == y_rows.blocks && view.packed(&rows) => Some(rows),
            _ => return Ok(false),
        },
        None => None,
    };
    let arguments = Arguments {
        rows: count as i64,
        inputs: x_rows.columns as i64,
        outputs: w_rows.rows as i64,
        x_row: x_rows.distance as i64,
        w_row: w_rows.distance as i64,
        y_row: y_rows.distance as i64,
        format,
        y_format: format,
        activation: epilogue as i32,
        scales_by_row: 0,
        fast: 0,
        candidate: 0,
        residual_row: residual_rows.map_or(0, |rows| rows.distance as i64),
    };
    for block in 0..x_rows.blocks {
        let from_residual = residual.as_ref().zip(residual_rows).map_or(ptr::null_mut(), |(view, rows)| {
            launch::advance(view.address, block * rows.block_distance, x.dtype())
        });
        // SAFETY: x and y (and the residual) have `rows` of `inputs` and `outputs` numbers at these distances in each block,
        // W `outputs` rows of `inputs`, the bias `outputs` numbers, all of `format`, checked above; the stream is theirs.
        let code = unsafe {
            marquee_linear(
                &raw const arguments,
                launch::advance(from.address, block * x_rows.block_distance, x.dtype()),
                by.address,
                bias.as_ref().map_or(ptr::null_mut(), |bias| bias.address),
                from_residual,
                ptr::null(),
                ptr::null(),
                launch::advance(to.address, block * y_rows.block_distance, x.dtype()),
                from.stream(),
            )
        };
        launch::check("marquee_linear", code)?;
    }
    Ok(true)
}

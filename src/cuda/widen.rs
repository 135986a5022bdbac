//! int8 weights to the dtype of a product: `kernels/widen.cu` on tensors. `None` for tensors that it does not take. Caller:
//! `models::ops`.

use std::ffi::{c_int, c_void};

use candle_core::{DType, Result, Tensor};

use super::launch::{self, Stream, View};

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_widen(
        numbers: *const c_void,
        scales: *const f32,
        y: *mut c_void,
        rows: i64,
        columns: i64,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// `numbers[r] · scales[r]` in `dtype` (f32, f16 or bf16): numbers (rows, columns) int8 as u8, scales (rows) f32, both
/// contiguous; 16 divides the columns. The result is a tensor of the allocator's pool.
///
/// # Errors
/// No room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn widen(numbers: &Tensor, scales: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
    let (Some(card), Some(format), &[rows, columns]) =
        (launch::card(numbers.device()), launch::format(dtype), numbers.dims())
    else {
        return Ok(None);
    };
    let is = |tensor: &Tensor, dtype| {
        tensor.dtype() == dtype && tensor.is_contiguous() && launch::card(tensor.device()).is_some()
    };
    if !is(numbers, DType::U8)
        || !is(scales, DType::F32)
        || scales.elem_count() != rows
        || !columns.is_multiple_of(16)
    {
        return Ok(None);
    }
    let y = launch::empty((rows, columns), dtype, card)?;
    let (from, by, to) = (View::of(numbers)?, View::of(scales)?, View::of(&y)?);
    if !from.aligned(16) || !to.aligned(16) {
        return Ok(None);
    }
    // SAFETY: numbers and y hold rows x columns, scales rows, all contiguous, checked above; the stream is theirs, and they
    // outlive the launch in its order.
    let code = unsafe {
        marquee_widen(
            from.address,
            by.address.cast_const().cast(),
            to.address,
            rows as i64,
            columns as i64,
            format,
            to.stream(),
        )
    };
    launch::check("marquee_widen", code)?;
    drop((from, by, to));
    Ok(Some(y))
}

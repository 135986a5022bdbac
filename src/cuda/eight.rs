//! Products in 8 bits on tensors: rows to e4m3 (`kernels/quantise.cu`, `kernels/norm.cu`), and cuBLASLt's product of two
//! such matrices (`shim/linear.cpp`). For cards from compute capability 8.9 on. Functions give `None` (or false) for
//! tensors that they do not take. Callers: `models::ops`.
//!
//! Numbers travel as u8: candle's own 8-bit format has no use on a card beyond its bytes.

use std::ffi::{c_int, c_void};
use std::ptr;

use candle_core::cuda_backend::cudarc::driver::sys;
use candle_core::{CudaDevice, DType, Error, Result, Tensor};

use super::launch::{self, Address, Rows, Stream, View};
use super::linear::{Arguments, Epilogue, marquee_linear};

/// Number of e4m3 in the kernels' interface.
const E4M3: c_int = 3;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_quantise(
        before: *const c_void,
        before_columns: i64,
        x: *const c_void,
        x_row: i64,
        out: *mut c_void,
        out_row: i64,
        scales: *mut f32,
        rows: i64,
        columns: i64,
        format: c_int,
        stream: Stream,
    ) -> c_int;
}

/// Whether the card multiplies in e4m3.
pub fn available(card: &CudaDevice) -> bool {
    launch::capability(card) >= 89
}

/// `rows` scales of 1, f32.
///
/// # Errors
/// No room on the card.
#[allow(unsafe_code)]
pub fn unit_scales(rows: usize, card: &CudaDevice) -> Result<Tensor> {
    let scales = launch::empty(rows, DType::F32, card)?;
    let view = View::of(&scales)?;
    let (address, bits) = (view.address as sys::CUdeviceptr, 1f32.to_bits());
    // SAFETY: the tensor has `rows` numbers of 32 bits, and stays, in the stream's order, until they are written.
    unsafe { sys::cuMemsetD32Async(address, bits, rows, card.cuda_stream().cu_stream()) }
        .result()
        .map_err(|error| Error::Cuda(Box::new(error)))?;
    drop(view);
    Ok(scales)
}

/// The rows of `x` (…, columns), f16 or bf16, each divided by its scale: numbers of `x`'s shape as u8, scales (rows) f32. Each
/// behind its row of `before` (…, other columns), e4m3 without a scale as u8, if there is one.
///
/// # Errors
/// No room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn quantise(before: Option<&Tensor>, x: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let (Some(card), Some(format), DType::F16 | DType::BF16) =
        (launch::card(x.device()), launch::format(x.dtype()), x.dtype())
    else {
        return Ok(None);
    };
    let from = View::of(x)?;
    let Some(lie) = Rows::of(from.layout).filter(|lie| from.packed(lie)) else { return Ok(None) };
    // Rows of 8-bit numbers that the product reads in packs of 16 bytes.
    if !lie.columns.is_multiple_of(16) {
        return Ok(None);
    }
    let mut shape = x.dims().to_vec();
    shape.pop();
    let in_front = match before.map(|before| (before, before.dims().split_last())) {
        None => 0,
        Some((before, Some((&columns, rows))))
            if before.dtype() == DType::U8
                && before.is_contiguous()
                && rows == shape
                && columns.is_multiple_of(16) =>
        {
            columns
        }
        Some(_) => return Ok(None),
    };
    let all = in_front + lie.columns;
    shape.push(all);
    let before = before.map(View::of).transpose()?;
    if before.as_ref().is_some_and(|before| !before.aligned(8)) {
        return Ok(None);
    }
    let codes = before.map_or(ptr::null_mut(), |before| before.address);
    let numbers = launch::empty(shape, DType::U8, card)?;
    let scales = launch::empty(lie.rows * lie.blocks, DType::F32, card)?;
    let (to, scale) = (View::of(&numbers)?, View::of(&scales)?);
    for block in 0..lie.blocks {
        // SAFETY: x has `rows` of `columns` numbers at this distance in each block; what stands before them, numbers and
        // scales are contiguous and hold all blocks. The stream is theirs, and they outlive the launch in its order.
        let code = unsafe {
            marquee_quantise(
                launch::advance(codes, block * lie.rows * in_front, DType::U8),
                in_front as i64,
                launch::advance(from.address, block * lie.block_distance, x.dtype()),
                lie.distance as i64,
                launch::advance(to.address, block * lie.rows * all, DType::U8),
                all as i64,
                launch::advance(scale.address, block * lie.rows, DType::F32).cast(),
                lie.rows as i64,
                lie.columns as i64,
                format,
                from.stream(),
            )
        };
        launch::check("marquee_quantise", code)?;
    }
    drop((to, scale));
    Ok(Some((numbers, scales)))
}

/// `f(x Wᵀ + b)` of rows in e4m3 with a scale each, written to `y` (…, outputs), f16 or bf16, which may be a part of a wider
/// tensor: x is (numbers (…, inputs), scales (rows)), W (numbers (outputs, inputs), scales (outputs)), both contiguous.
/// False, and nothing written, if it does not take the tensors.
///
/// # Errors
/// cuBLASLt failed.
#[allow(unsafe_code)]
pub fn linear_into(
    x: (&Tensor, &Tensor),
    weight: (&Tensor, &Tensor),
    bias: Option<&Tensor>,
    epilogue: Epilogue,
    y: &Tensor,
) -> Result<bool> {
    let (Some(card), Some(y_format), DType::F16 | DType::BF16) =
        (launch::card(y.device()), launch::format(y.dtype()), y.dtype())
    else {
        return Ok(false);
    };
    let is = |tensor: &Tensor, dtype| {
        tensor.dtype() == dtype && tensor.is_contiguous() && launch::card(tensor.device()).is_some()
    };
    let eight = |(numbers, scales): (&Tensor, &Tensor)| is(numbers, DType::U8) && is(scales, DType::F32);
    if !available(card) || !eight(x) || !eight(weight) || bias.is_some_and(|bias| !is(bias, y.dtype())) {
        return Ok(false);
    }
    let (outputs, inputs) = weight.0.dims2()?;
    let rows = x.0.elem_count() / inputs.max(1);
    let to = View::of(y)?;
    let Some(lie) = Rows::of(to.layout).filter(|lie| to.packed(lie)) else { return Ok(false) };
    let fits = x.0.dims().last() == Some(&inputs)
        && x.1.elem_count() == rows
        && weight.1.elem_count() == outputs
        && bias.is_none_or(|bias| bias.elem_count() == outputs)
        && (lie.columns, lie.rows * lie.blocks) == (outputs, rows)
        && inputs.is_multiple_of(16)
        && outputs.is_multiple_of(16);
    if !fits {
        return Ok(false);
    }
    let views = [View::of(x.0)?, View::of(x.1)?, View::of(weight.0)?, View::of(weight.1)?];
    let [numbers, scales, w_numbers, w_scales] = &views;
    let bias = bias.map(View::of).transpose()?;
    let bias: Address = bias.as_ref().map_or(ptr::null_mut(), |bias| bias.address);
    let arguments = Arguments {
        rows: lie.rows as i64,
        inputs: inputs as i64,
        outputs: outputs as i64,
        x_row: inputs as i64,
        w_row: inputs as i64,
        y_row: lie.distance as i64,
        format: E4M3,
        y_format,
        activation: epilogue as i32,
        scales_by_row: 1,
        // Sums of e4m3 products in the tensor cores' own precision: no measurable error on 15360 inputs, 13 % faster.
        fast: 1,
        candidate: 0,
        residual_row: 0,
    };
    for block in 0..lie.blocks {
        // SAFETY: all have the sizes that the arguments name, checked above; the stream is theirs, and they outlive the
        // launch in its order.
        let code = unsafe {
            marquee_linear(
                &raw const arguments,
                launch::advance(numbers.address, block * lie.rows * inputs, DType::U8),
                w_numbers.address,
                bias,
                std::ptr::null(),
                launch::advance(scales.address, block * lie.rows, DType::F32).cast_const().cast(),
                w_scales.address.cast_const().cast(),
                launch::advance(to.address, block * lie.block_distance, y.dtype()),
                to.stream(),
            )
        };
        launch::check("marquee_linear", code)?;
    }
    Ok(true)
}

//! Bytes of pictures to numbers and back: `kernels/pixels.cu` on tensors. Caller: `models::ops`.

use std::ffi::c_int;

use candle_core::{DType, Error, Result, Tensor};

use super::launch::{Address, KernelError, Stream, View, check, empty, format};
use super::picture::channels_last;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_bytes_to_unit(b: Address, y: Address, count: i64, stream: Stream) -> c_int;
    fn marquee_signed_to_bytes(format: c_int, x: Address, b: Address, count: i64, stream: Stream) -> c_int;
}

/// Bytes (u8, contiguous) over 255 in f32, of the same shape.
///
/// # Errors
/// No room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn unit(bytes: &Tensor) -> Result<Tensor> {
    let bytes = bytes.contiguous()?;
    let from = View::of(&bytes)?;
    let y = empty(bytes.shape(), DType::F32, &from.device)?;
    let count = bytes.elem_count() as i64;
    // SAFETY: both are contiguous with `count` numbers, u8 (`View` gives other formats too, but `models::ops` sends bytes) and
    // f32; y outlives the work in stream order.
    let code = unsafe { marquee_bytes_to_unit(from.address, View::of(&y)?.address, count, from.stream()) };
    check("marquee_bytes_to_unit", code)?;
    Ok(y)
}

/// Pictures (batch, channels, height, width) around [-1, 1] as bytes (batch, height, width, channels).
///
/// # Errors
/// A format that no kernel reads, no room on the card, or the card failed.
#[allow(unsafe_code)]
pub fn bytes(pictures: &Tensor) -> Result<Tensor> {
    let Some(format) = format(pictures.dtype()) else {
        let found = format!("{:?}", pictures.dtype());
        return Err(Error::from(KernelError::Unfit {
            kernel: "marquee_signed_to_bytes",
            expected: "f32, f16 or bf16",
            found,
        }));
    };
    let x = channels_last(pictures)?;
    let from = View::of(&x)?;
    let y = empty(x.shape(), DType::U8, &from.device)?;
    let count = x.elem_count() as i64;
    // SAFETY: both are contiguous with `count` numbers, x of `format`, y bytes that outlive the work in stream order.
    let code =
        unsafe { marquee_signed_to_bytes(format, from.address, View::of(&y)?.address, count, from.stream()) };
    check("marquee_signed_to_bytes", code)?;
    Ok(y)
}

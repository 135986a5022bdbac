//! Bytes of pictures to numbers and back, as diffusers' image processor does it. On a card its kernels convert, so that
//! bytes cross the bus.

use candle_core::{DType, Device, Result, Tensor};

use crate::models::device::send;

#[cfg(feature = "cuda")]
use crate::cuda::pixels as kernel;

/// `bytes` (height, width, channels) over 255: (1, channels, height, width) in [0, 1], f32, on `device`. On a card the
/// memory is in the bytes' order, channels last.
///
/// # Errors
/// No room on the device.
pub fn unit_picture(bytes: &[u8], shape: (usize, usize, usize), device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let bytes = send(&Tensor::from_slice(bytes, shape, &Device::Cpu)?, device)?;
        return kernel::unit(&bytes)?.permute((2, 0, 1))?.unsqueeze(0);
    }
    let values: Vec<f32> = bytes.iter().map(|&value| f32::from(value) / 255.0).collect();
    let planes = Tensor::from_vec(values, shape, &Device::Cpu)?.permute((2, 0, 1))?.unsqueeze(0)?;
    send(&planes.contiguous()?, device)
}

/// `pictures` (batch, channels, height, width) around [-1, 1] as bytes, pixel by pixel: halved and shifted in their own
/// dtype, clamped, scaled in f32, rounded half to even.
///
/// # Errors
/// Another number of dimensions, no room on the device.
pub fn picture_bytes(pictures: &Tensor) -> Result<Vec<u8>> {
    #[cfg(feature = "cuda")]
    if pictures.device().is_cuda() {
        return kernel::bytes(pictures)?.flatten_all()?.to_vec1();
    }
    let dtype = pictures.dtype();
    // torch computes a half tensor with Python numbers in f32 and rounds after each operation. Halving is exact.
    let shifted = ((pictures.to_dtype(DType::F32)? * 0.5)? + 0.5)?.to_dtype(dtype)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = shifted.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect())
}

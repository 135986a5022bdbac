//! Pictures in, masks out, as the published model's example does with torchvision and Pillow.

use candle_core::{DType, Device, Result, Tensor};
use image::{GrayImage, RgbImage};

use crate::imaging::resample::{Filter, resize_gray, resize_rgb};
use crate::models::ops::{sigmoid, unit_picture};

/// ImageNet's mean and standard deviation, red, green, blue.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Pillow's bilinear resize to a square of edge `size`, then `(value / 255 - mean) / deviation` in f32:
/// (1, 3, size, size).
///
/// # Errors
/// A picture without pixels; no room on the device.
pub fn picture_to_tensor(picture: &RgbImage, size: u32, device: &Device) -> Result<Tensor> {
    if picture.is_empty() {
        candle_core::bail!("picture of {} x {}: no pixels", picture.width(), picture.height());
    }
    let square = resize_rgb(picture, size, size, Filter::Bilinear);
    let edge = size as usize;
    let channels = |values: &[f32; 3]| Tensor::from_slice(values, (1, 3, 1, 1), device);
    unit_picture(square.as_raw(), (edge, edge, 3), device)?
        .broadcast_sub(&channels(&MEAN)?)?
        .broadcast_div(&channels(&DEVIATION)?)
}

/// Logits (1, 1, height, width) to a mask of the given size: sigmoid, to bytes without rounding, Pillow's bicubic resize.
///
/// # Errors
/// Another shape; logits that are no numbers, as f16 gives when it overflows.
pub fn mask_of_logits(logits: &Tensor, width: u32, height: u32) -> Result<GrayImage> {
    let (1, 1, rows, columns) = logits.dims4()? else {
        candle_core::bail!("logits {:?}: expected one picture with one channel", logits.shape());
    };
    let values: Vec<f32> = sigmoid(&logits.to_dtype(DType::F32)?)?.flatten_all()?.to_vec1()?;
    if values.iter().any(|value| value.is_nan()) {
        candle_core::bail!("logits are not numbers: {:?} overflowed; compute in f32", logits.dtype());
    }
    let bytes = values.into_iter().map(|value| (value * 255.0) as u8).collect();
    let mask = GrayImage::from_raw(columns as u32, rows as u32, bytes).unwrap_or_default();
    Ok(resize_gray(&mask, width, height, Filter::Bicubic))
}

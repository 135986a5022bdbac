//! Pictures and masks to tensors and back, equal to diffusers' `VaeImageProcessor` on Pillow images.
//!
//! Order matters and is Pillow's: an image is resized in its own mode (an RGBA one premultiplied), then converted. Must not
//! know latents. Callers: the pipelines. Palette images are decoded to RGB before they come here; Pillow would
//! resize them by nearest neighbour, which nobody wants reproduced.

use candle_core::{Device, Result, Tensor};
use image::{DynamicImage, GrayImage, RgbImage};

use crate::imaging::resample::{self, Filter};
use crate::models::device::send;
use crate::models::ops::{picture_bytes, unit_picture};

/// A picture as the autoencoder wants it: (1, 3, height, width) in [-1, 1], f32. Lanczos to the size, then RGB (alpha is
/// dropped, grey repeated).
///
/// # Errors
/// A side of 0; no room on the device.
pub fn picture_to_tensor(image: &DynamicImage, width: u32, height: u32, device: &Device) -> Result<Tensor> {
    // (2 x) - 1, as diffusers; both in f32.
    (control_to_tensor(image, width, height, device)? * 2.0)? - 1.0
}

/// A picture as a ControlNet wants it: as [`picture_to_tensor`], but in [0, 1].
///
/// # Errors
/// A side of 0; no room on the device.
pub fn control_to_tensor(image: &DynamicImage, width: u32, height: u32, device: &Device) -> Result<Tensor> {
    let rgb = resized(image, width, height)?.to_rgb8();
    unit_picture(rgb.as_raw(), (height as usize, width as usize, 3), device)
}

/// A mask: (1, 1, height, width) of 0 and 1, f32; 1 where the picture is to be painted anew. Lanczos to the size in the
/// mask's own mode, then Pillow's grey, then 1 from the middle up.
///
/// # Errors
/// A side of 0; no room on the device.
pub fn mask_to_tensor(mask: &DynamicImage, width: u32, height: u32, device: &Device) -> Result<Tensor> {
    let grey = to_grey(&resized(mask, width, height)?);
    // value / 255 >= 0.5 in f32 is value >= 128.
    let on: Vec<f32> = grey.as_raw().iter().map(|&value| if value >= 128 { 1.0 } else { 0.0 }).collect();
    send(&Tensor::from_vec(on, (1, 1, height as usize, width as usize), &Device::Cpu)?, device)
}

/// Decoded pictures (batch, 3, height, width) around [-1, 1] to 8 bits: halved and shifted in their own dtype, clamped,
/// scaled in f32, rounded half to even.
///
/// # Errors
/// Another number of channels.
pub fn tensor_to_pictures(pictures: &Tensor) -> Result<Vec<RgbImage>> {
    let (batch, channels, height, width) = pictures.dims4()?;
    if channels != 3 {
        candle_core::bail!("pictures of {channels} channels; expected 3");
    }
    let bytes = picture_bytes(pictures)?;
    let size = channels * height * width;
    (0..batch)
        .map(|index| {
            let own = bytes.get(index * size..(index + 1) * size).unwrap_or_default().to_vec();
            RgbImage::from_raw(width as u32, height as u32, own).ok_or_else(|| {
                candle_core::Error::Msg(format!("picture {index} does not fill {width} x {height} pixels"))
            })
        })
        .collect()
}

/// Pillow's `convert("L")`: ITU-R 601 weights in 16-bit fixed point, rounded; alpha is dropped.
pub fn to_grey(image: &DynamicImage) -> GrayImage {
    match image {
        DynamicImage::ImageLuma8(grey) => grey.clone(),
        DynamicImage::ImageLumaA8(grey) => {
            let values = grey.pixels().map(|pixel| pixel.0[0]).collect();
            GrayImage::from_raw(grey.width(), grey.height(), values).unwrap_or_default()
        }
        other => {
            let rgb = other.to_rgb8();
            let values = rgb
                .pixels()
                .map(|pixel| {
                    let [r, g, b] = pixel.0.map(u32::from);
                    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
                })
                .collect();
            GrayImage::from_raw(rgb.width(), rgb.height(), values).unwrap_or_default()
        }
    }
}

fn resized(image: &DynamicImage, width: u32, height: u32) -> Result<DynamicImage> {
    if image.width() == 0 || image.height() == 0 || width == 0 || height == 0 {
        candle_core::bail!(
            "an image of {} x {} pixels cannot be brought to {width} x {height}",
            image.width(),
            image.height()
        );
    }
    Ok(resample::resize(image, width, height, Filter::Lanczos))
}

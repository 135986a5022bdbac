//! Encoding of what goes out. Decoding, with its caps, is [`crate::input`]'s.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder};

use crate::input::plan::OutputFormat;

/// Quality of every JPEG that is sent.
pub const JPEG_QUALITY: u8 = 95;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode a {width} x {height} image as {format:?}")]
pub struct EncodeError {
    format: OutputFormat,
    width: u32,
    height: u32,
    source: image::ImageError,
}

/// Writes `image` in `format`, 8 bit RGB or (if it has alpha) RGBA. JPEG has no alpha: callers that must keep it ask for
/// another format; here the colour of transparent pixels is kept and the alpha dropped.
///
/// # Errors
/// [`EncodeError`] where the format cannot hold the image (JPEG and WebP end at 65 535 and 16 383 pixels a side).
pub fn encode(image: &DynamicImage, format: OutputFormat) -> Result<Vec<u8>, EncodeError> {
    let (width, height) = (image.width(), image.height());
    let transparent = image.color().has_alpha() && format != OutputFormat::Jpeg;
    let converted;
    let (bytes, colour) = match image {
        DynamicImage::ImageRgb8(rgb) => (rgb.as_raw().as_slice(), ExtendedColorType::Rgb8),
        DynamicImage::ImageRgba8(rgba) if transparent => (rgba.as_raw().as_slice(), ExtendedColorType::Rgba8),
        other if transparent => {
            converted = other.to_rgba8().into_raw();
            (converted.as_slice(), ExtendedColorType::Rgba8)
        }
        other => {
            converted = other.to_rgb8().into_raw();
            (converted.as_slice(), ExtendedColorType::Rgb8)
        }
    };
    let mut out = Vec::with_capacity(bytes.len() / 2);
    let result = match format {
        OutputFormat::Png => {
            PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive)
                .write_image(bytes, width, height, colour)
        }
        OutputFormat::Jpeg => {
            JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY).write_image(bytes, width, height, colour)
        }
        OutputFormat::WebP => WebPEncoder::new_lossless(&mut out).write_image(bytes, width, height, colour),
    };
    result.map_err(|source| EncodeError { format, width, height, source })?;
    Ok(out)
}

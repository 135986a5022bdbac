//! Pixels to files: PNG, JPEG at quality 95, WebP lossless. Knows nothing of documents or limits.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::error::ImageError;
use image::{DynamicImage, ExtendedColorType, ImageEncoder};

use crate::input::plan::OutputFormat;

/// An image that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("a {width} x {height} image of type {color:?} cannot be written as {format}")]
pub struct EncodeError {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Its pixels' type.
    pub color: image::ColorType,
    /// The format asked for.
    pub format: &'static str,
    /// The encoder's words.
    #[source]
    pub source: ImageError,
}

/// JPEG quality of every answer.
const JPEG_QUALITY: u8 = 95;

/// File extension and name in the answer.
pub fn extension(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "png",
        OutputFormat::Jpeg => "jpeg",
        OutputFormat::WebP => "webp",
    }
}

/// Media type of a file.
pub fn media_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "image/png",
        OutputFormat::Jpeg => "image/jpeg",
        OutputFormat::WebP => "image/webp",
    }
}

/// Writes `image` as a file. JPEG drops an alpha channel: ask [`is_transparent`] first.
///
/// # Errors
/// [`EncodeError`] if the format cannot hold the image (0 pixels, say).
pub fn encode(image: &DynamicImage, format: OutputFormat) -> Result<Vec<u8>, EncodeError> {
    // A poor guess costs one reallocation: half a byte a channel for the lossless formats, less for JPEG.
    let mut file = Vec::with_capacity(image.as_bytes().len() / 2);
    let outcome = match format {
        OutputFormat::Png => image.write_with_encoder(PngEncoder::new_with_quality(
            &mut file,
            CompressionType::Fast,
            FilterType::Adaptive,
        )),
        OutputFormat::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
            match image {
                DynamicImage::ImageRgb8(_) | DynamicImage::ImageLuma8(_) => image.write_with_encoder(encoder),
                other => DynamicImage::ImageRgb8(other.to_rgb8()).write_with_encoder(encoder),
            }
        }
        OutputFormat::WebP => {
            let encoder = WebPEncoder::new_lossless(&mut file);
            match image {
                DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) => image.write_with_encoder(encoder),
                other => {
                    let rgba = other.to_rgba8();
                    encoder.write_image(&rgba, rgba.width(), rgba.height(), ExtendedColorType::Rgba8)
                }
            }
        }
    };
    match outcome {
        Ok(()) => Ok(file),
        Err(source) => Err(EncodeError {
            width: image.width(),
            height: image.height(),
            color: image.color(),
            format: extension(format),
            source,
        }),
    }
}

/// Whether any pixel lets something shine through.
pub fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageRgba8(rgba) => rgba.pixels().any(|pixel| pixel.0[3] < 255),
        other => other.color().has_alpha() && other.to_rgba8().pixels().any(|pixel| pixel.0[3] < 255),
    }
}

//! Pictures in base64: bounded before anything is decoded, opened for their header, decoded to 8 bits a channel.
//!
//! Two stages, because they cost differently: [`Opened::new`] reads base64 and the header (cheap, always done),
//! [`Opened::decode`] makes pixels (only of pictures that the plan uses). Called by [`super::validate`] and fuzzed.

mod base64;
mod fit;
mod sniff;

pub use fit::{fit_to, on_white};

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use serde_json::{Value, json};

use super::errors::{ErrorCode, shortened};

/// Caps on one picture.
#[derive(Debug, Clone, Copy)]
pub struct ImageCaps {
    /// Largest file in bytes.
    pub bytes: usize,
    /// Largest width times height.
    pub pixels: u64,
}

/// A picture that was not accepted, in words and with its code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageProblem {
    /// Stable name.
    pub code: ErrorCode,
    /// Expected and found.
    pub message: String,
}

fn problem(code: ErrorCode, message: impl Into<String>) -> ImageProblem {
    ImageProblem { code, message: message.into() }
}

/// Decoders may use this many bytes a pixel of the cap: 16-bit RGBA and as much again for their own buffers.
const BYTES_A_PIXEL: u64 = 16;

/// Room for a decoder's tables, whatever the picture's size.
const DECODER_ROOM: u64 = 16 << 20;

/// A picture whose header is read and within the caps; its pixels are still compressed.
#[derive(Debug)]
pub struct Opened {
    bytes: Vec<u8>,
    format: ImageFormat,
    /// Width in pixels, after orientation.
    pub width: u32,
    /// Height in pixels, after orientation.
    pub height: u32,
    /// More than one frame; the first is used.
    pub animated: bool,
    orientation: Orientation,
    limits: Limits,
}

impl Opened {
    /// Reads base64 (with or without data-URL prefix), finds the format and checks the header against the caps.
    ///
    /// # Errors
    /// [`ImageProblem`] naming what is wrong; no pixel has been decoded then.
    pub fn new(text: &str, caps: ImageCaps) -> Result<Self, ImageProblem> {
        Self::from_bytes(base64::decode(text, caps.bytes)?, caps)
    }

    /// Like [`Self::new`] for a file's bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_bytes(bytes: Vec<u8>, caps: ImageCaps) -> Result<Self, ImageProblem> {
        if bytes.len() > caps.bytes {
            return Err(base64::too_many_bytes(bytes.len(), caps.bytes));
        }
        let format = sniff::format(&bytes)?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(caps.pixels.saturating_mul(BYTES_A_PIXEL).saturating_add(DECODER_ROOM));
        let mut opened = Self {
            bytes,
            format,
            width: 0,
            height: 0,
            animated: false,
            orientation: Orientation::NoTransforms,
            limits,
        };
        let (width, height, orientation) = opened.header()?;
        let pixels = u64::from(width) * u64::from(height);
        if pixels > caps.pixels {
            return Err(problem(
                ErrorCode::ImageTooLarge,
                format!("expected at most {} pixels, found {width} x {height} = {pixels}", caps.pixels),
            ));
        }
        let turned = matches!(
            orientation,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        (opened.width, opened.height) = if turned { (height, width) } else { (width, height) };
        opened.orientation = orientation;
        opened.animated = opened.is_animated();
        Ok(opened)
    }

    /// The picture as it is named in the answer, in place of its bytes.
    pub fn summary(&self) -> Value {
        json!({ "width": self.width, "height": self.height, "format": self.format_name().to_lowercase() })
    }

    fn format_name(&self) -> &'static str {
        match self.format {
            ImageFormat::Png => "PNG",
            ImageFormat::Jpeg => "JPEG",
            _ => "WebP",
        }
    }

    fn decoder(&self) -> Result<impl ImageDecoder + '_, ImageProblem> {
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes.as_slice()), self.format);
        reader.limits(self.limits.clone());
        reader.into_decoder().map_err(|e| self.damaged(&e))
    }

    fn header(&self) -> Result<(u32, u32, Orientation), ImageProblem> {
        let mut decoder = self.decoder()?;
        let (width, height) = decoder.dimensions();
        // Damaged EXIF is no reason to refuse a picture that is otherwise whole.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        Ok((width, height, orientation))
    }

    fn is_animated(&self) -> bool {
        let cursor = Cursor::new(self.bytes.as_slice());
        match self.format {
            ImageFormat::Png => PngDecoder::with_limits(cursor, self.limits.clone())
                .and_then(|decoder| decoder.is_apng())
                .unwrap_or(false),
            ImageFormat::WebP => WebPDecoder::new(cursor).is_ok_and(|decoder| decoder.has_animation()),
            _ => false,
        }
    }

    /// Decodes the (first) picture, turned upright: RGBA8 if it has an alpha channel, else RGB8.
    ///
    /// # Errors
    /// [`ImageProblem`] for damaged or truncated data.
    pub fn decode(&self) -> Result<DynamicImage, ImageProblem> {
        // The JPEG decoder fills what is missing with grey; a customer would rather know.
        if self.format == ImageFormat::Jpeg && !jpeg_is_whole(&self.bytes) {
            return Err(problem(ErrorCode::BadImage, self.truncated()));
        }
        let mut decoder = self.decoder()?;
        let mut limits = self.limits.clone();
        limits.reserve(decoder.total_bytes()).map_err(|e| self.damaged(&e))?;
        decoder.set_limits(limits).map_err(|e| self.damaged(&e))?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(|e| self.damaged(&e))?;
        image.apply_orientation(self.orientation);
        Ok(match image {
            image @ (DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_)) => image,
            image if image.color().has_alpha() => DynamicImage::ImageRgba8(image.into_rgba8()),
            image => DynamicImage::ImageRgb8(image.into_rgb8()),
        })
    }

    fn truncated(&self) -> String {
        format!(
            "the {} file is truncated: it ends after {} bytes, before the picture does",
            self.format_name(),
            self.bytes.len()
        )
    }

    fn damaged(&self, error: &ImageError) -> ImageProblem {
        match error {
            ImageError::Limits(_) => problem(
                ErrorCode::ImageTooLarge,
                format!(
                    "decoding this {} file would need more memory than its cap allows",
                    self.format_name()
                ),
            ),
            ImageError::Unsupported(_) => problem(
                ErrorCode::UnsupportedImage,
                format!(
                    "this variant of {} cannot be read: {}",
                    self.format_name(),
                    shortened(&error.to_string())
                ),
            ),
            _ if ends_early(error) => problem(ErrorCode::BadImage, self.truncated()),
            _ => problem(
                ErrorCode::BadImage,
                format!("the {} file is damaged: {}", self.format_name(), shortened(&error.to_string())),
            ),
        }
    }
}

/// Whether the reader ran out of bytes, anywhere in the chain of causes.
fn ends_early(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if current
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof)
        {
            return true;
        }
        cause = current.source();
    }
    // The PNG and WebP readers report a short file in words of their own.
    let words = error.to_string().to_lowercase();
    words.contains("unexpected end") || words.contains("eof") || words.contains("end of file")
}

/// JPEG marker before each scan's data.
const START_OF_SCAN: u8 = 0xda;
/// JPEG marker after the last scan.
const END_OF_IMAGE: u8 = 0xd9;

/// Whether an end marker follows the last scan. Entropy-coded data cannot contain either marker.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(START_OF_SCAN) < last(END_OF_IMAGE)
}

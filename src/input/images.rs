//! Pictures in base64: bounded before anything is decoded, opened for their header, decoded to 8 bits a channel.
//!
//! Two stages, because they cost differently: [`Opened::new`] reads base64 and the header (cheap, always done),
//! [`Opened::decode`] makes pixels (only of pictures that the plan uses). Called by [`super::validate`] and fuzzed.

use std::io::Cursor;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use serde_json::{Value, json};

use super::errors::{ErrorCode, shortened};
use crate::imaging::resample::{self, Filter};

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

/// Padding may be missing and the last character may carry stray bits: both are common and harmless.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

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
        Self::from_bytes(decode_base64(text, caps.bytes)?, caps)
    }

    /// Like [`Self::new`] for a file's bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_bytes(bytes: Vec<u8>, caps: ImageCaps) -> Result<Self, ImageProblem> {
        if bytes.len() > caps.bytes {
            return Err(too_many_bytes(bytes.len(), caps.bytes));
        }
        let format = sniff(&bytes)?;
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

fn too_many_bytes(found: usize, cap: usize) -> ImageProblem {
    problem(ErrorCode::ImageTooLarge, format!("expected a file of at most {cap} bytes, found {found}"))
}

fn decode_base64(text: &str, max_bytes: usize) -> Result<Vec<u8>, ImageProblem> {
    let payload = strip_data_url(text)?;
    // Four characters carry three bytes; the estimate is exact but for whitespace, which is counted only if it matters.
    let decoded_len = |chars: usize| chars / 4 * 3 + (chars % 4).saturating_sub(1);
    let is_filler = |byte: u8| byte.is_ascii_whitespace() || byte == b'=';
    if decoded_len(payload.len()) > max_bytes {
        let chars = payload.bytes().filter(|byte| !is_filler(*byte)).count();
        if decoded_len(chars) > max_bytes {
            return Err(too_many_bytes(decoded_len(chars), max_bytes));
        }
    }
    if payload.trim().is_empty() {
        return Err(problem(ErrorCode::BadBase64, "expected a picture in base64, found an empty string"));
    }
    let decoded = if payload.bytes().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'-' | b'_')) {
        let plain: Vec<u8> = payload
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            })
            .collect();
        STANDARD.decode(plain)
    } else {
        STANDARD.decode(payload)
    };
    decoded.map_err(|error| {
        let hint = if text.starts_with("http://") || text.starts_with("https://") {
            "; addresses are not fetched, send the file itself"
        } else {
            ""
        };
        problem(ErrorCode::BadBase64, format!("expected a picture in base64: {error}{hint}"))
    })
}

/// What follows `data:…;base64,`, or all of it if there is no such prefix.
fn strip_data_url(text: &str) -> Result<&str, ImageProblem> {
    let text = text.trim_start();
    let Some(rest) = text.get(..5).filter(|p| p.eq_ignore_ascii_case("data:")).and(text.get(5..)) else {
        return Ok(text);
    };
    match rest.split_once(',') {
        Some((kind, payload)) if kind.to_ascii_lowercase().trim_end().ends_with(";base64") => Ok(payload),
        _ => Err(problem(
            ErrorCode::BadBase64,
            format!("expected a data URL with \";base64,\", found \"{}\"", shortened(text)),
        )),
    }
}

/// Beginnings of formats that are not decoded, so that the message can name them: offset, bytes, name.
const OTHER_FORMATS: &[(usize, &[u8], &str)] = &[
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
    (0, b"<", "HTML or XML"),
    (0, b"{", "JSON"),
];

fn sniff(bytes: &[u8]) -> Result<ImageFormat, ImageProblem> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(ImageFormat::Png);
    }
    if bytes.starts_with(b"\xff\xd8\xff") {
        return Ok(ImageFormat::Jpeg);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP".as_slice()) {
        return Ok(ImageFormat::WebP);
    }
    let found = OTHER_FORMATS
        .iter()
        .find(|(offset, magic, _)| bytes.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
        .map_or("something else", |(_, _, name)| name);
    Err(problem(
        ErrorCode::UnsupportedImage,
        format!("expected a PNG, JPEG or WebP file, found {found} ({} bytes)", bytes.len()),
    ))
}

/// `image` at exactly `width` x `height`.
pub fn fit_to(image: DynamicImage, width: u32, height: u32) -> DynamicImage {
    if (image.width(), image.height()) == (width, height) {
        image
    } else {
        resample::resize(&image, width, height, Filter::Lanczos)
    }
}

/// `image` without alpha, on white; the flag says whether anything was transparent.
pub fn on_white(image: DynamicImage) -> (RgbImage, bool) {
    if !image.color().has_alpha() {
        return (image.into_rgb8(), false);
    }
    let rgba = image.into_rgba8();
    let mut transparent = false;
    let mut flat = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in flat.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, a] = from.0;
        transparent |= a < 255;
        let a = u16::from(a);
        // Rounded division by 255; the sum is at most 255 * 255.
        let mix = |c: u8| ((u16::from(c) * a + 255 * (255 - a) + 127) / 255) as u8;
        *to = Rgb([mix(r), mix(g), mix(b)]);
    }
    (flat, transparent)
}

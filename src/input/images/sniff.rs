//! Which format a file has, by its first bytes; names and types that senders attach are not trusted.

use image::ImageFormat;

use super::{ImageProblem, problem};
use crate::input::errors::ErrorCode;

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

/// The format of `bytes` if it is one that is decoded.
pub(super) fn format(bytes: &[u8]) -> Result<ImageFormat, ImageProblem> {
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

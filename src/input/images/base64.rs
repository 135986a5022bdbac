//! Base64 as clients really send it: data URLs, line breaks, either alphabet, with or without padding.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{ImageProblem, problem};
use crate::input::errors::{ErrorCode, shortened};

/// Padding may be missing and the last character may carry stray bits: both are common and harmless.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

pub(super) fn too_many_bytes(found: usize, cap: usize) -> ImageProblem {
    problem(ErrorCode::ImageTooLarge, format!("expected a file of at most {cap} bytes, found {found}"))
}

/// The bytes that `text` carries; their number is checked before they are decoded.
pub(super) fn decode(text: &str, max_bytes: usize) -> Result<Vec<u8>, ImageProblem> {
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

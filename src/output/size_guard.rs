//! What to give up when an answer would not fit through the platform: intermediates first, then bytes of the final image.
//!
//! A body that is too large is refused by the platform after the work is done and the job is lost with it, so it is never
//! posted. Called by [`super::render_for_delivery`]; blocks while it encodes.

use bytes::Bytes;

use super::document::{Document, FINAL, not_encoded};
use super::format::is_transparent;
use crate::imaging::codecs::encode;
use crate::input::plan::OutputFormat;
use crate::job::{Delivery, Failure, FailureKind};

/// Room for what is around the object in the posted body: `{"output":…,"stopPod":true}` and the like.
pub const WRAPPER_BYTES: u64 = 64;

/// The platform's limit on a posted body; `None` where nothing limits it. `configured` replaces the platform's.
pub fn limit_of(delivery: Delivery, configured: Option<u64>) -> Option<u64> {
    match delivery {
        Delivery::Queued => Some(configured.unwrap_or(10_000_000)),
        Delivery::Waiting => Some(configured.unwrap_or(20_000_000)),
        Delivery::Local => None,
    }
}

/// Whether the body around `document` would pass `limit` bytes.
///
/// # Errors
/// [`FailureKind::Unserialisable`] if the document cannot be written at all.
pub fn is_too_large(document: &Document, limit: Option<u64>) -> Result<bool, Failure> {
    Ok(match limit {
        None => false,
        Some(limit) => document.size()? + WRAPPER_BYTES > limit,
    })
}

/// Gives up as little as possible until the body fits into `limit` bytes, each time with a warning.
///
/// # Errors
/// [`FailureKind::ResultTooLarge`] with the numbers if nothing helps.
pub fn shrink(document: &mut Document, limit: Option<u64>) -> Result<(), Failure> {
    let Some(limit) = limit else { return Ok(()) };
    if !is_too_large(document, Some(limit))? {
        return Ok(());
    }
    let full = document.size()? + WRAPPER_BYTES;
    let dropped: Vec<_> = document.pictures.iter().map(|p| p.name).filter(|name| *name != FINAL).collect();
    if !dropped.is_empty() {
        document.pictures.retain(|picture| picture.name == FINAL);
        document.warnings.push(format!(
            "left out {}, because the result would have {full} bytes and at most {limit} can be delivered",
            dropped.join(" and ")
        ));
    }
    let tighter: &[OutputFormat] = match document.pictures.first().map(|picture| picture.format) {
        Some(OutputFormat::Png) => &[OutputFormat::WebP, OutputFormat::Jpeg],
        Some(OutputFormat::WebP) => &[OutputFormat::Jpeg],
        Some(OutputFormat::Jpeg) | None => &[],
    };
    for format in tighter {
        if !is_too_large(document, Some(limit))? {
            return Ok(());
        }
        reencode(document, *format, limit)?;
    }
    if is_too_large(document, Some(limit))? {
        return Err(Failure::new(
            FailureKind::ResultTooLarge,
            format!(
                "the result has {} bytes in its tightest form and at most {limit} can be delivered: ask for a smaller \
                 width and height, or configure a bucket (BUCKET_ENDPOINT_URL)",
                document.size()? + WRAPPER_BYTES
            ),
        ));
    }
    Ok(())
}

/// Encodes the final image as `format`, unless that loses its transparency or gains nothing.
fn reencode(document: &mut Document, format: OutputFormat, limit: u64) -> Result<(), Failure> {
    let Some(picture) = document.pictures.first_mut() else { return Ok(()) };
    let word = match format {
        OutputFormat::Jpeg if is_transparent(&picture.image) => return Ok(()),
        OutputFormat::Jpeg => "JPEG of quality 95",
        OutputFormat::WebP => "lossless WebP",
        OutputFormat::Png => "PNG",
    };
    let file = encode(&picture.image, format).map_err(|error| not_encoded(picture.name, &error))?;
    if file.len() < picture.file.len() {
        picture.file = Bytes::from(file);
        picture.format = format;
        document
            .warnings
            .push(format!("{FINAL} is written as {word}, because at most {limit} bytes can be delivered"));
    }
    Ok(())
}

//! What is given up, in which order, when the body would be too large.

use image::{DynamicImage, ImageFormat};
use marquee::engine::Artifacts;
use marquee::imaging::codecs::encode;
use marquee::input::plan::OutputFormat;
use marquee::job::{Delivery, FailureKind, JobId};
use marquee::output::size_guard::{WRAPPER_BYTES, limit_of};
use marquee::output::{Ahead, Document, render_for_delivery};
use serde_json::{Value, json};

use super::{artifacts, noise, parsed, picture, planned};

const SIDE: u32 = 128;

async fn delivered(artifacts: Artifacts, limit: u64) -> Result<Value, marquee::job::Failure> {
    let (id, plan) = (JobId::new("job").unwrap(), planned(&json!({})));
    let body =
        render_for_delivery(artifacts, (&plan, Ahead::of(&plan).into()), &id, Some(limit), None).await?;
    assert!(body.get().len() as u64 + WRAPPER_BYTES <= limit, "{} > {limit}", body.get().len());
    Ok(parsed(&body))
}

fn only_final(image: DynamicImage) -> Artifacts {
    Artifacts { final_image: Some(image), ..Artifacts::default() }
}

/// Bytes of a body with nothing but this final image; room for the guard's own warnings is added by the caller.
fn body(image: &DynamicImage, format: OutputFormat) -> u64 {
    let empty = Document::encode(only_final(image.clone()), &planned(&json!({}))).unwrap();
    let png = empty.pictures[0].file.len().div_ceil(3) * 4;
    let file = encode(image, format).unwrap().len().div_ceil(3) * 4;
    empty.size().unwrap() + WRAPPER_BYTES - png as u64 + file as u64
}

/// Faint noise, on which the three formats differ by much.
fn faint() -> DynamicImage {
    image::RgbImage::from_fn(128, 128, |x, y| {
        let mix = (x * 7919 + y * 104_729).wrapping_mul(0x9e37_79b9);
        image::Rgb([8, 16, 24].map(|shift| 100 + (mix >> shift & 15) as u8))
    })
    .into()
}

#[tokio::test]
async fn a_body_that_fits_exactly_is_left_alone() {
    let document = Document::encode(artifacts(SIDE), &planned(&json!({}))).unwrap();
    // Digits of the encoding time differ between runs.
    let limit = document.size().unwrap() + WRAPPER_BYTES + 20;
    let output = delivered(artifacts(SIDE), limit).await.unwrap();
    assert_eq!(output["images"].as_object().unwrap().len(), 3);
    assert_eq!(output["warnings"], json!(["from the engine"]));
}

#[tokio::test]
async fn intermediates_go_first() {
    let document = Document::encode(artifacts(SIDE), &planned(&json!({}))).unwrap();
    let output = delivered(artifacts(SIDE), document.size().unwrap() + WRAPPER_BYTES - 100).await.unwrap();
    assert_eq!(picture(&output, "final_result"), (noise(SIDE, 2), ImageFormat::Png));
    assert_eq!(output["images"].as_object().unwrap().len(), 1);
    let warning = output["warnings"][1].as_str().unwrap();
    assert!(warning.contains("step1_result and step2_result"), "{warning}");
}

#[tokio::test]
async fn then_webp_then_jpeg_then_a_named_failure() {
    let (png, webp, jpeg) = (
        body(&faint(), OutputFormat::Png),
        body(&faint(), OutputFormat::WebP),
        body(&faint(), OutputFormat::Jpeg),
    );
    assert!(png > webp + 2000 && webp > jpeg + 2000, "{png} {webp} {jpeg}");
    let output = delivered(only_final(faint()), png - 100).await.unwrap();
    assert_eq!(picture(&output, "final_result"), (faint(), ImageFormat::WebP));
    assert_eq!(output["image_formats"]["final_result"], "webp");
    assert!(output["warnings"][0].as_str().unwrap().contains("lossless WebP"));
    let output = delivered(only_final(faint()), webp - 100).await.unwrap();
    assert_eq!(picture(&output, "final_result").1, ImageFormat::Jpeg);
    assert!(output["warnings"][1].as_str().unwrap().contains("JPEG of quality 95"));
    let failure = delivered(only_final(faint()), jpeg - 100).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ResultTooLarge);
    assert!(failure.message.contains(&(jpeg - 100).to_string()), "{failure}");
}

#[tokio::test]
async fn transparency_is_never_lost_to_jpeg() {
    let mut image = faint().into_rgba8();
    image.get_pixel_mut(0, 0).0[3] = 254;
    let image = DynamicImage::ImageRgba8(image);
    let (webp, jpeg) = (body(&image, OutputFormat::WebP), body(&image, OutputFormat::Jpeg));
    assert!(jpeg + 2000 < webp, "JPEG would fit");
    let failure = delivered(only_final(image), webp - 100).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ResultTooLarge);
}

#[test]
fn limits_are_the_platforms_unless_configured() {
    assert_eq!(limit_of(Delivery::Queued, None), Some(10_000_000));
    assert_eq!(limit_of(Delivery::Waiting, None), Some(20_000_000));
    assert_eq!(limit_of(Delivery::Local, None), None);
    assert_eq!(limit_of(Delivery::Queued, Some(5)), Some(5));
    assert_eq!(limit_of(Delivery::Local, Some(5)), None);
}

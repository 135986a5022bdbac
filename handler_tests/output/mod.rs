//! From the engine's images to the delivered object.

mod bucket;
mod guard;
mod object;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage};
use marquee::engine::Artifacts;
use marquee::input::plan::AutoUnload;
use marquee::input::{InputLimits, Plan, plan};
use marquee::progress::SubStep;
use serde_json::value::RawValue;
use serde_json::{Value, json};

fn planned(raw: &Value) -> Plan {
    let limits = InputLimits {
        max_image_bytes: 1 << 20,
        max_image_pixels: 1 << 20,
        max_prompt_chars: 10_000,
        auto_unload_default: AutoUnload::Yes,
    };
    plan(raw, &limits, || 7).unwrap()
}

/// Pictures that compress badly, so that sizes differ clearly between formats.
fn noise(side: u32, salt: u32) -> DynamicImage {
    RgbImage::from_fn(side, side, |x, y| {
        let mix = (x ^ (y << 8) ^ salt).wrapping_mul(0x9e37_79b9) >> 24;
        Rgb([mix as u8, (mix + x) as u8, (mix ^ y) as u8])
    })
    .into()
}

fn phrase(side: u32) -> DynamicImage {
    RgbaImage::from_fn(side, side, |x, _| Rgba([200, 150, 0, (x % 256) as u8])).into()
}

fn artifacts(side: u32) -> Artifacts {
    Artifacts {
        step1: Some(noise(side, 1)),
        step2: Some(phrase(side)),
        final_image: Some(noise(side, 2)),
        warnings: vec!["from the engine".to_owned()],
        timings: vec![
            (SubStep::BackgroundGeneration, Duration::from_millis(1500)),
            (SubStep::TextCanvas, Duration::from_millis(10)),
            (SubStep::TextGeneration, Duration::from_micros(2_000_500)),
            (SubStep::Composition, Duration::from_secs(1)),
        ],
        memory: json!({ "peak": 12 }),
        ..Artifacts::default()
    }
}

fn parsed(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

fn picture(output: &Value, name: &str) -> (DynamicImage, image::ImageFormat) {
    let bytes = STANDARD.decode(output["images"][name].as_str().unwrap()).unwrap();
    (image::load_from_memory(&bytes).unwrap(), image::guess_format(&bytes).unwrap())
}

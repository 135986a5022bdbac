//! Where the time of a test_mode job goes: `cargo run --release --example test_mode_profile -- [RUNS]`.
//!
//! One thread, 1024 x 1024, all three steps with a product, encoded as PNG. Prints JSON: the median of each stage in
//! milliseconds, the first (cold) job, the size of each encoding, a large resize, and resident memory after a tenth and after
//! all of the runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{DynamicImage, Rgb, RgbImage};
use marquee::engine::dummy::DummyEngine;
use marquee::engine::{Ctx, Engine};
use marquee::imaging::codecs::encode;
use marquee::imaging::fonts::FontLibrary;
use marquee::imaging::resample::{Filter, resize_rgb};
use marquee::input::Plan;
use marquee::input::plan::{
    AutoUnload, BackgroundModel, BackgroundPlan, CompositionMode, CompositionPlan, OutputFormat, OutputPlan,
    ProductPlan, ProductPosition, TextPlan, TextPosition,
};
use marquee::progress::Step;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(15), |runs| runs.parse())?;
    let mut engine = DummyEngine::new(Arc::new(FontLibrary::new(Vec::new())), Duration::ZERO);
    let mut stages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut resident = Vec::new();
    let mut last = None;
    for run in 0..runs {
        let started = Instant::now();
        let artifacts = engine.run(&plan(run as u64), &Ctx::detached())?;
        let mut note = |stage: &str, time: Duration| {
            stages.entry(stage.to_owned()).or_default().push(time.as_secs_f64() * 1000.0);
        };
        for (sub_step, time) in &artifacts.timings {
            note(sub_step.as_str(), *time);
        }
        let images = [&artifacts.step1, &artifacts.step2, &artifacts.final_image];
        for (image, name) in images.into_iter().zip(["png_step1", "png_step2", "png_final"]) {
            let encoding = Instant::now();
            if let Some(image) = image {
                encode(image, OutputFormat::Png)?;
            }
            note(name, encoding.elapsed());
        }
        note("job", started.elapsed());
        if run == runs / 10 || run + 1 == runs {
            resident.push(resident_kib());
        }
        last = artifacts.final_image;
    }
    let cold = stages.get("job").and_then(|times| times.first().copied());
    let medians: BTreeMap<&str, f64> =
        stages.iter_mut().map(|(stage, times)| (stage.as_str(), median(times))).collect();
    let mut sizes = BTreeMap::new();
    if let Some(image) = &last {
        for format in [OutputFormat::Png, OutputFormat::Jpeg, OutputFormat::WebP] {
            let started = Instant::now();
            let bytes = encode(image, format)?.len();
            let ms = started.elapsed().as_secs_f64() * 1000.0;
            sizes.insert(format!("{format:?}"), json!({ "bytes": bytes, "ms": ms }));
        }
    }
    let photo = RgbImage::from_fn(4000, 3000, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let mut resizes: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(resize_rgb(&photo, 1024, 768, Filter::Lanczos));
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    let report = json!({
        "runs": runs,
        "median_ms": medians,
        "first_job_ms": cold,
        "encodings_of_the_final_image": sizes,
        "lanczos_4000x3000_to_1024x768_ms": median(&mut resizes),
        "resident_kib": resident,
    });
    println!("{report:#}");
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Linux only; `None` elsewhere.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn plan(seed: u64) -> Plan {
    let photo = RgbImage::from_fn(900, 1200, |x, y| {
        let inside = (250..650).contains(&x) && (150..1100).contains(&y);
        if inside { Rgb([150, (y / 8) as u8, (x / 8) as u8]) } else { Rgb([244, 243, 240]) }
    });
    Plan {
        start: Step::Background,
        stop: Step::Composition,
        width: 1024,
        height: 1024,
        seed,
        test_mode: true,
        background: Some(BackgroundPlan {
            model: BackgroundModel::Flux,
            prompt: "a rustic wooden table in soft morning light".to_owned(),
            negative_prompt: String::new(),
            steps: 25,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
            product: Some(ProductPlan {
                image: DynamicImage::from(photo),
                scale: 0.4,
                position: ProductPosition::Default,
                prompt: String::new(),
                negative_prompt: String::new(),
                strength: 0.5,
            }),
        }),
        text: Some(TextPlan {
            content: "Summer Sale".to_owned(),
            prompt: "gold foil balloon text".to_owned(),
            negative_prompt: String::new(),
            steps: 30,
            controlnet_conditioning_scale: 1.0,
            font_name: None,
        }),
        composition: Some(CompositionPlan {
            mode: CompositionMode::Overlay,
            position: TextPosition::Auto,
            prompt: None,
            negative_prompt: None,
            strength: 0.4,
            steps: 28,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
        }),
        step1_image: None,
        step2_image: None,
        auto_unload: [AutoUnload::Yes; 3],
        output: OutputPlan { format: OutputFormat::Png, return_intermediate: true },
        warnings: Vec::new(),
        parameters: serde_json::Map::new(),
    }
}

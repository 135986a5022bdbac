//! Makes the README's three pictures: `cargo run --release --example test_mode_pictures -- docs/images [WIDTH]`.
//!
//! The Korean one needs a font with Hangul (Debian: fonts-nanum).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image::{DynamicImage, Rgba, RgbaImage};
use marquee::engine::dummy::DummyEngine;
use marquee::engine::{Ctx, Engine};
use marquee::imaging::codecs::encode;
use marquee::imaging::fonts::FontLibrary;
use marquee::imaging::resample::{Filter, resize};
use marquee::input::Plan;
use marquee::input::plan::{
    AutoUnload, BackgroundModel, BackgroundPlan, CompositionMode, CompositionPlan, OutputFormat, OutputPlan,
    ProductPlan, ProductPosition, TextPlan, TextPosition,
};
use marquee::progress::Step;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: test_mode_pictures FOLDER [WIDTH]")?);
    let width: u32 = arguments.next().map_or(Ok(512), |width| width.parse())?;
    std::fs::create_dir_all(&folder)?;
    let mut engine = DummyEngine::new(Arc::new(FontLibrary::new(Vec::new())), Duration::ZERO);
    let overlay = CompositionMode::Overlay;
    let plans = [
        (
            "summer_sale",
            plan("Summer Sale", "a tropical beach on a bright summer day", "gold foil balloon", overlay, 7),
        ),
        ("korean", plan("여름 대축제", "노을 지는 바다", "gold foil balloon", CompositionMode::Blend, 21)),
        ("product", {
            let mut plan =
                plan("New Scent", "a rustic wooden table in soft morning light", "gold foil", overlay, 3);
            if let Some(background) = &mut plan.background {
                background.product = Some(ProductPlan {
                    image: bottle(),
                    scale: 0.47,
                    position: ProductPosition::At { x: 395, y: 486 },
                    prompt: String::new(),
                    negative_prompt: String::new(),
                    strength: 0.5,
                });
            }
            plan
        }),
    ];
    for (name, plan) in plans {
        let image =
            engine.run(&plan, &Ctx::detached())?.final_image.ok_or("a whole run has a final image")?;
        let height = width * image.height() / image.width();
        let bytes = encode(&resize(&image, width, height, Filter::Lanczos), OutputFormat::Jpeg)?;
        let file = folder.join(format!("{name}.jpg"));
        std::fs::write(&file, &bytes)?;
        println!("{} {} bytes", file.display(), bytes.len());
    }
    Ok(())
}

fn plan(phrase: &str, scene: &str, material: &str, mode: CompositionMode, seed: u64) -> Plan {
    Plan {
        start: Step::Background,
        stop: Step::Composition,
        width: 1024,
        height: 1024,
        seed,
        test_mode: true,
        background: Some(BackgroundPlan {
            model: BackgroundModel::Flux,
            prompt: scene.to_owned(),
            negative_prompt: String::new(),
            steps: 25,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
            product: None,
        }),
        text: Some(TextPlan {
            content: phrase.to_owned(),
            prompt: material.to_owned(),
            negative_prompt: String::new(),
            steps: 30,
            controlnet_conditioning_scale: 1.0,
            font_name: None,
        }),
        composition: Some(CompositionPlan {
            mode,
            position: TextPosition::Top,
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

/// A perfume bottle with alpha: cylinder-shaded glass, a label, a cap.
fn bottle() -> DynamicImage {
    let (width, height) = (420, 760);
    let rounded = |x: f32, y: f32, x0: f32, y0: f32, x1: f32, y1: f32, r: f32| -> f32 {
        let dx = (x0 + r - x).max(x - (x1 - r)).max(0.0);
        let dy = (y0 + r - y).max(y - (y1 - r)).max(0.0);
        (r - (dx * dx + dy * dy).sqrt() + 0.5).clamp(0.0, 1.0)
    };
    let image = RgbaImage::from_fn(width, height, |px, py| {
        let (x, y) = (px as f32 + 0.5, py as f32 + 0.5);
        let across = (x - 210.0) / 180.0;
        let gloss = (1.0 - ((across + 0.55) / 0.12).abs()).max(0.0) * 0.55
            + (1.0 - ((across - 0.68) / 0.07).abs()).max(0.0) * 0.3;
        let round = (1.0 - across * across).max(0.0).sqrt() * 0.65 + 0.35;
        let parts: [(f32, [f32; 3]); 4] = [
            (rounded(x, y, 30.0, 230.0, 390.0, 750.0, 56.0), [0.58, 0.20, 0.26]),
            (rounded(x, y, 150.0, 150.0, 270.0, 250.0, 10.0), [0.80, 0.62, 0.30]),
            (rounded(x, y, 124.0, 10.0, 296.0, 180.0, 22.0), [0.16, 0.12, 0.13]),
            (rounded(x, y, 92.0, 400.0, 328.0, 610.0, 8.0), [0.95, 0.91, 0.84]),
        ];
        let (mut colour, mut alpha) = ([0.0_f32; 3], 0.0_f32);
        for (cover, paint) in parts {
            for (value, paint) in colour.iter_mut().zip(paint) {
                let lit = (paint * round + gloss * 0.6).min(1.0);
                *value += (lit - *value) * cover;
            }
            alpha = alpha.max(cover);
        }
        // Three lines of "print" on the label.
        for (top, bottom, half) in [(462.0, 474.0, 78.0), (496.0, 504.0, 52.0), (540.0, 544.0, 90.0)] {
            if y > top && y < bottom && (x - 210.0).abs() < half {
                colour = [0.45, 0.30, 0.24];
            }
        }
        let byte = |value: f32| (value * 255.0 + 0.5) as u8;
        Rgba([byte(colour[0]), byte(colour[1]), byte(colour[2]), byte(alpha)])
    });
    image.into()
}

//! The engine with nets, on tiny checkpoints: all three steps, from a job's JSON to its pictures.

mod cut_out;
mod faults;
mod itinerary;
mod memory;
mod pictures;
mod progress;

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use candle_core::{DType, Device};
use image::{DynamicImage, Rgb, RgbImage};
use marquee::config::{FluxSource, ModelConfig, SdxlSource};
use marquee::engine::real::{RealEngine, Setup};
use marquee::engine::{Artifacts, Ctx, Engine, EngineError};
use marquee::imaging::codecs::encode;
use marquee::imaging::fonts::FontLibrary;
use marquee::input::plan::OutputFormat;
use marquee::input::{InputLimits, Plan, plan};
use marquee::job::StopHandle;
use marquee::memory::Limits;
use marquee::models::birefnet::{BiRefNetConfig, SwinConfig, write_random_checkpoint};
use marquee::models::checkpoint::Caches;
use marquee::models::ops::Rounding;
use marquee::models::tiny::{self, Family};
use marquee::progress::ProgressEvent;
use serde_json::{Value, json};

use crate::support::fakes::config;

/// Every kind of checkpoint once a process, a few hundred kilobytes each.
static CHECKPOINTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("dev"), Family::Dev).unwrap();
    tiny::write(&at("schnell"), Family::Schnell).unwrap();
    tiny::write_sdxl(&at("sdxl")).unwrap();
    tiny::write_sdxl_controlnet(&at("controlnet")).unwrap();
    let backbone = SwinConfig { embed_dim: 8, depths: [1; 4], num_heads: [1, 1, 2, 2], window_size: 4 };
    let birefnet = BiRefNetConfig { backbone, size: 64, ..BiRefNetConfig::default() };
    write_random_checkpoint(&birefnet, DType::F32, 5, &at("birefnet")).unwrap();
    folder
});

/// The folder of one of them: `dev`, `schnell`, `sdxl`, `controlnet`, `birefnet`.
pub fn checkpoint(name: &str) -> String {
    CHECKPOINTS.path().join(name).to_str().unwrap().to_owned()
}

/// The tiny checkpoints, with `flux` as FLUX.
fn models(flux: &str) -> ModelConfig {
    let at = checkpoint;
    ModelConfig {
        flux: FluxSource { model: at(flux), transformer: None, t5: None, vae: None },
        sdxl: SdxlSource { model: at("sdxl"), vae: None, controlnet: at("controlnet") },
        segmentation: at("birefnet"),
        device: None,
        dtype: None,
        quantization: None,
    }
}

fn engine_of(models: ModelConfig) -> RealEngine {
    engine_in(models, None)
}

fn engine_in(models: ModelConfig, quantisation: Option<Rounding>) -> RealEngine {
    RealEngine::new(Setup {
        models,
        caches: Caches { roots: Vec::new() },
        fonts: Arc::new(FontLibrary::without_system(Vec::new())),
        device: Device::Cpu,
        quantisation,
        dtype: DType::F32,
        limits: Limits::default(),
    })
    .unwrap()
}

fn engine() -> RealEngine {
    engine_of(models("dev"))
}

/// A small job of all three steps, with `changes` to it; `null` takes a field out.
pub fn job(changes: &Value) -> Value {
    let mut raw = json!({
        "text_content": "Sale", "bg_prompt": "a beach", "width": 256, "height": 256, "bg_steps": 2, "text_steps": 2,
        "composition_steps": 10, "composition_strength": 0.2, "seed": 4,
    });
    for (name, value) in changes.as_object().unwrap() {
        raw[name] = value.clone();
    }
    raw.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    raw
}

fn planned(changes: &Value) -> Plan {
    plan(&job(changes), &InputLimits::from(&config(&[]).engine), || 1).unwrap()
}

/// A product photo without transparency.
fn photo() -> String {
    let photo = RgbImage::from_fn(60, 80, |x, y| {
        if (15..45).contains(&x) && (10..70).contains(&y) { Rgb([210, 20, 30]) } else { Rgb([240, 240, 238]) }
    });
    base64(&photo.into())
}

fn base64(image: &DynamicImage) -> String {
    base64::engine::general_purpose::STANDARD.encode(encode(image, OutputFormat::Png).unwrap())
}

fn run(changes: &Value) -> Artifacts {
    engine().run(&planned(changes), &Ctx::detached()).unwrap()
}

/// The run's result and every progress event.
fn watched(
    engine: &mut RealEngine,
    plan: &Plan,
    on_event: impl Fn(ProgressEvent, &StopHandle) + Send + Sync + 'static,
) -> (Result<Artifacts, EngineError>, Vec<ProgressEvent>) {
    let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), StopHandle::new());
    let (events, pull) = (seen.clone(), stop.clone());
    let ctx = Ctx::new(stop, move |event| {
        events.lock().unwrap().push(event);
        on_event(event, &pull);
    });
    let result = engine.run(plan, &ctx);
    let seen = seen.lock().unwrap().clone();
    (result, seen)
}

fn bytes(image: Option<&DynamicImage>) -> &[u8] {
    image.unwrap().as_bytes()
}

/// Steps 1 and 2 of [`job`], made once.
static EARLIER: LazyLock<Artifacts> = LazyLock::new(|| run(&json!({"stop_step": 2})));

/// A job that starts at step 3, with [`EARLIER`]'s pictures.
fn third_step() -> Value {
    json!({
        "start_step": 3,
        "text_content": null,
        "step1_image": base64(EARLIER.step1.as_ref().unwrap()),
        "step2_image": base64(EARLIER.step2.as_ref().unwrap()),
        "composition_strength": 0.1,
    })
}

/// A job that ends with the background.
fn background(changes: &Value) -> Value {
    let mut job = json!({"stop_step": 1, "text_content": null});
    for (name, value) in changes.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

//! The engine with nets on a tiny checkpoint: the whole path from a job's JSON to its picture.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use marquee::config::FluxSource;
use marquee::engine::real::RealEngine;
use marquee::engine::{Ctx, Engine, EngineError};
use marquee::input::{InputLimits, Plan, plan};
use marquee::job::{StopHandle, StopReason};
use marquee::models::checkpoint::Caches;
use marquee::models::tiny::{self, Family};
use serde_json::{Value, json};

use crate::support::fakes::config;

fn planned(raw: &Value) -> Plan {
    plan(raw, &InputLimits::from(&config(&[]).engine), || 1).unwrap()
}

fn background() -> Value {
    json!({"bg_prompt": "a beach", "stop_step": 1, "width": 256, "height": 256, "bg_steps": 3, "seed": 4})
}

/// An engine on a tiny checkpoint in `folder`.
fn engine(folder: &std::path::Path) -> RealEngine {
    tiny::write(folder, Family::Dev).unwrap();
    let model = folder.to_str().unwrap().to_owned();
    let flux = FluxSource { model, transformer: None, t5: None, vae: None };
    RealEngine::new(flux, Caches { roots: Vec::new() }, Device::Cpu, DType::F32)
}

#[test]
fn a_background_is_painted_step_by_step_and_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let events = seen.clone();
    let ctx =
        Ctx::new(StopHandle::new(), move |event| events.lock().unwrap().push((event.done, event.total)));
    let first = engine.run(&planned(&background()), &ctx).unwrap().final_image.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(0, 3), (1, 3), (2, 3), (3, 3)]);
    assert_eq!((first.width(), first.height()), (256, 256));
    let again = engine.run(&planned(&background()), &Ctx::detached()).unwrap().final_image.unwrap();
    assert_eq!(first.as_bytes(), again.as_bytes());
    let mut other = background();
    other["seed"] = json!(5);
    let other = engine.run(&planned(&other), &Ctx::detached()).unwrap().final_image.unwrap();
    assert_ne!(first.as_bytes(), other.as_bytes(), "the seed does nothing");
}

#[test]
fn a_stop_ends_the_run_with_its_reason_and_the_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(folder.path());
    let stop = StopHandle::new();
    let pull = stop.clone();
    let ctx = Ctx::new(stop, move |event| {
        if event.done == 1 {
            pull.stop(StopReason::Requested);
        }
    });
    let stopped = engine.run(&planned(&background()), &ctx).unwrap_err();
    assert!(matches!(stopped, EngineError::Stopped(StopReason::Requested)), "{stopped}");
    assert!(engine.run(&planned(&background()), &Ctx::detached()).is_ok());
}

#[test]
fn what_it_has_no_nets_for_is_refused_before_any_is_loaded() {
    let flux = FluxSource { model: "/nowhere".to_owned(), transformer: None, t5: None, vae: None };
    let mut engine = RealEngine::new(flux, Caches { roots: Vec::new() }, Device::Cpu, DType::F32);
    for (field, value, expected) in
        [("stop_step", json!(3), "steps 2 and 3"), ("bg_model", json!("sdxl"), "SDXL backgrounds")]
    {
        let mut raw = background();
        raw[field] = value;
        raw["text_content"] = if field == "stop_step" { json!("Sale") } else { Value::Null };
        let refused = engine.run(&planned(&raw), &Ctx::detached()).unwrap_err();
        assert!(matches!(&refused, EngineError::Unavailable(text) if text.contains(expected)), "{refused}");
    }
    let missing = engine.run(&planned(&background()), &Ctx::detached()).unwrap_err();
    assert!(matches!(&missing, EngineError::Unavailable(text) if text.contains("/nowhere")), "{missing}");
}

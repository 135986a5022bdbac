//! What goes wrong, and what the customer gets then.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Error, safetensors};
use image::DynamicImage;
use marquee::engine::real::fault::{Condition, Fault, condition};
use marquee::engine::{Ctx, Engine, EngineError};
use marquee::imaging::composite::over;
use marquee::imaging::placement::reposition_text;
use marquee::input::plan::{BackgroundModel, TextPosition};
use marquee::job::{FailureKind, StopReason};
use marquee::models::PipelineError;
use marquee::progress::SubStep;
use serde_json::json;

use super::{background, checkpoint, engine, engine_of, models, planned, third_step, watched};

#[test]
fn a_merge_that_fails_leaves_the_plain_composite_and_says_so() {
    let mut plan = planned(&third_step());
    // No request can ask for it; the schedule refuses it as any failure in step 3 would.
    plan.composition.as_mut().unwrap().steps = 5000;
    let mut engine = engine();
    let (result, seen) = watched(&mut engine, &plan, |_, _| ());
    let artifacts = result.unwrap();
    let failures: Vec<_> = artifacts.warnings.iter().filter(|text| text.contains("step 3 failed")).collect();
    assert!(matches!(failures[..], [text] if text.contains("5000")), "{:?}", artifacts.warnings);
    let (scene, text) = (plan.step1_image.unwrap(), plan.step2_image.unwrap());
    let mut plain = scene.clone();
    over(&mut plain, &reposition_text(&text, &scene, TextPosition::Top), (0, 0));
    assert_eq!(artifacts.final_image.unwrap(), DynamicImage::ImageRgb8(plain));
    let last = seen.last().unwrap();
    assert_eq!(
        (last.sub_step, last.done),
        (SubStep::Composition, last.total),
        "the bar is full all the same"
    );
    let next = planned(&background(&json!({})));
    assert!(engine.run(&next, &Ctx::detached()).is_ok(), "the next job runs");
}

#[test]
fn what_is_wrong_with_the_merge_does_not_fail_the_background() {
    // Its prompts are read in step 1.
    let mut plan = planned(&json!({}));
    plan.composition.as_mut().unwrap().steps = 5000;
    let (result, seen) = watched(&mut engine(), &plan, |event, stop| {
        if event.sub_step == SubStep::TextCanvas {
            stop.stop(StopReason::Requested);
        }
    });
    assert!(matches!(result, Err(EngineError::Stopped(_))), "{result:?}");
    assert!(seen.iter().any(|event| event.sub_step == SubStep::TextCanvas), "step 1 failed");
}

#[test]
fn a_cancelled_merge_is_no_failed_merge() {
    let plan = planned(&third_step());
    let (result, _) = watched(&mut engine(), &plan, |event, stop| {
        if (event.sub_step, event.done) == (SubStep::Composition, 1) {
            stop.stop(StopReason::Requested);
        }
    });
    assert!(matches!(result, Err(EngineError::Stopped(_))), "{result:?}");
}

#[test]
fn earlier_steps_fail_the_job() {
    let mut plan = planned(&json!({}));
    plan.background.as_mut().unwrap().steps = 5000;
    let error = engine().run(&plan, &Ctx::detached()).unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::Engine), "{error}");
    assert!(error.to_string().starts_with("background_generation: "), "{error}");
}

/// A copy of a tiny checkpoint, with `tensor` of its part `part` not numbers.
fn damaged(name: &str, part: &str, tensor: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        fs::create_dir_all(copy.path().join(&folder)).unwrap();
        for entry in fs::read_dir(Path::new(&checkpoint(name)).join(&folder)).unwrap().map(Result::unwrap) {
            let inside = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(inside);
            } else {
                fs::copy(entry.path(), copy.path().join(inside)).unwrap();
            }
        }
    }
    // It may lie in any of the part's files.
    let files = fs::read_dir(copy.path().join(part)).unwrap().map(|entry| entry.unwrap().path());
    let mut found = 0;
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "safetensors")) {
        let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
        let Some(numbers) = tensors.get_mut(tensor) else { continue };
        *numbers = (numbers.zeros_like().unwrap() / 0.0).unwrap();
        safetensors::save(&tensors, &file).unwrap();
        found += 1;
    }
    assert_eq!(found, 1, "{tensor} of {part}");
    copy
}

#[test]
fn latents_that_are_no_numbers_are_no_picture() {
    let sdxl = damaged("sdxl", "unet", "conv_out.bias");
    let mut of = models("dev");
    of.sdxl.model = sdxl.path().to_str().unwrap().to_owned();
    let error = engine_of(of).run(&planned(&json!({})), &Ctx::detached()).unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::Engine), "{error}");
    let message = error.to_string();
    assert!(message.starts_with("text_generation: SDXL left "), "{message}");

    let flux = damaged("dev", "transformer", "proj_out.bias");
    let mut of = models("dev");
    of.flux.model = flux.path().to_str().unwrap().to_owned();
    let mut engine = engine_of(of);
    let error = engine.run(&planned(&background(&json!({}))), &Ctx::detached()).unwrap_err();
    assert!(error.to_string().starts_with("background_generation: FLUX left "), "{error}");
    let merged = engine.run(&planned(&third_step()), &Ctx::detached()).unwrap();
    assert!(
        merged.warnings.iter().any(|text| text.contains("step 3 failed") && text.contains("FLUX left")),
        "{:?}",
        merged.warnings
    );
}

#[test]
fn a_model_that_is_not_there_is_named_before_anything_is_done() {
    for (variable, field) in
        [("FLUX_MODEL", 0), ("SDXL_MODEL", 1), ("CONTROLNET_MODEL", 2), ("SEGMENTATION_MODEL", 3)]
    {
        let mut models = models("dev");
        let fields = [
            &mut models.flux.model,
            &mut models.sdxl.model,
            &mut models.sdxl.controlnet,
            &mut models.segmentation,
        ];
        *fields.into_iter().nth(field).unwrap() = "/nowhere".to_owned();
        let mut engine = engine_of(models);
        let (result, seen) = watched(&mut engine, &planned(&json!({})), |_, _| ());
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::Unavailable), "{error}");
        assert!(error.to_string().contains(variable) && error.to_string().contains("/nowhere"), "{error}");
        assert!(seen.is_empty(), "{variable}: {seen:?}");
        if field > 0 {
            let needs_none = planned(&background(&json!({})));
            assert!(engine.run(&needs_none, &Ctx::detached()).is_ok(), "{variable} is not for this job");
        }
    }
}

#[test]
fn a_phrase_without_a_font_is_the_customers_to_mend() {
    let plan = planned(&json!({"text_content": "여름 세일", "font_name": "nowhere.ttf", "start_step": 2,
        "step1_image": super::base64(&DynamicImage::new_rgb8(256, 256))}));
    let error = engine().run(&plan, &Ctx::detached()).unwrap_err();
    assert_eq!(error.kind(), Some(FailureKind::InvalidInput), "{error}");
    // A whole job is refused before its background is painted.
    let plan = planned(&json!({"text_content": "여름 세일", "font_name": "nowhere.ttf"}));
    for model in [BackgroundModel::Flux, BackgroundModel::Sdxl] {
        let mut plan = plan.clone();
        plan.background.as_mut().unwrap().model = model;
        let (result, seen) = watched(&mut engine(), &plan, |_, _| ());
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::InvalidInput), "{error}");
        assert!(seen.iter().all(|event| event.done == 0), "{seen:?}");
    }
}

#[test]
fn the_drivers_words_decide() {
    let said = |words: &str| condition(&Error::Msg(format!("DriverError({words}, \"…\")")).bt());
    assert_eq!(said("CUDA_ERROR_OUT_OF_MEMORY"), Condition::Full);
    assert_eq!(said("CUDA_ERROR_ILLEGAL_ADDRESS"), Condition::Lost);
    assert_eq!(said("CUDA_ERROR_INVALID_VALUE"), Condition::Sound);
    let at = |error: Error| {
        Fault::from(PipelineError::from(error)).at(SubStep::TextGeneration, &candle_core::Device::Cpu)
    };
    let full = at(Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned()));
    assert_eq!(full.kind(), Some(FailureKind::OutOfMemory));
    assert!(full.to_string().contains("text_generation"), "{full}");
    assert_eq!(at(Error::Msg("CUDA_ERROR_LAUNCH_FAILED".to_owned())).kind(), Some(FailureKind::DeviceLost));
    assert_eq!(at(Error::Msg("shapes".to_owned())).kind(), Some(FailureKind::Engine));
}

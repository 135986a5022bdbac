//! What goes wrong, and what the customer gets then.

use candle_core::Error;
use image::DynamicImage;
use marquee::engine::real::fault::{Condition, Fault, condition};
use marquee::engine::{Ctx, Engine, EngineError};
use marquee::imaging::composite::over;
use marquee::imaging::placement::reposition_text;
use marquee::input::plan::TextPosition;
use marquee::job::{FailureKind, StopReason};
use marquee::models::PipelineError;
use marquee::progress::SubStep;
use serde_json::json;

use super::{background, engine, engine_of, models, planned, third_step, watched};

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

//! What the worker hears while the engine works, and how soon the engine hears the worker.

use marquee::engine::{Engine, EngineError};
use marquee::job::StopReason;
use marquee::progress::{ProgressEvent, SubStep};
use serde_json::{Value, json};

use super::{background, engine, photo, planned, third_step, watched};

fn whole() -> Value {
    json!({"product_image": photo(), "strength": 0.04, "composition_strength": 0.1, "composition_mode": "behind"})
}

#[test]
fn every_step_is_told_once_and_in_order() {
    let plan = planned(&whole());
    let (result, seen) = watched(&mut engine(), &plan, |_, _| ());
    let expected: Vec<_> = plan
        .sub_steps()
        .into_iter()
        .flat_map(|(sub_step, total)| (0..=total).map(move |done| ProgressEvent { sub_step, done, total }))
        .collect();
    assert_eq!(seen, expected);
    let artifacts = result.unwrap();
    let timed: Vec<SubStep> = artifacts.timings.iter().map(|(sub_step, _)| *sub_step).collect();
    assert_eq!(timed, plan.sub_steps().into_iter().map(|(sub_step, _)| sub_step).collect::<Vec<_>>());
}

#[test]
fn a_stop_is_noticed_in_every_sub_step_within_one_denoise_step() {
    let mut text = third_step();
    text["start_step"] = json!(2);
    text["text_content"] = json!("Sale");
    text["step2_image"] = Value::Null;
    let mut merge = third_step();
    merge["composition_mode"] = json!("behind");
    let mut engine = engine();
    let mut seen_in = Vec::new();
    // Each sub-step in the shortest job that has it.
    for changes in [background(&whole()), text, merge] {
        let plan = planned(&changes);
        for (stopped, _) in plan.sub_steps() {
            if seen_in.contains(&stopped) {
                continue;
            }
            seen_in.push(stopped);
            let (result, seen) = watched(&mut engine, &plan, move |event, stop| {
                if event.sub_step == stopped {
                    stop.stop(StopReason::Requested);
                }
            });
            let error = result.unwrap_err();
            assert!(matches!(error, EngineError::Stopped(StopReason::Requested)), "{stopped}: {error}");
            let last = *seen.last().unwrap();
            assert_eq!(
                (last.sub_step, last.done),
                (stopped, 0),
                "{stopped}: something was done after the stop"
            );
        }
    }
    assert_eq!(seen_in, SubStep::ALL);
    let (result, _) = watched(&mut engine, &planned(&third_step()), |_, _| ());
    assert!(result.is_ok(), "the engine goes on after a stop");
}

#[test]
fn a_stop_between_two_denoise_steps_ends_the_run() {
    let plan = planned(&json!({"bg_steps": 3, "text_steps": 3}));
    for sub_step in [SubStep::BackgroundGeneration, SubStep::TextGeneration] {
        let (result, seen) = watched(&mut engine(), &plan, move |event, stop| {
            if (event.sub_step, event.done) == (sub_step, 1) {
                stop.stop(StopReason::Deadline);
            }
        });
        assert!(matches!(result, Err(EngineError::Stopped(StopReason::Deadline))), "{result:?}");
        let last = seen.last().unwrap();
        assert_eq!((last.sub_step, last.done), (sub_step, 1));
    }
}

#[test]
fn stopped_before_it_begins_nothing_is_told() {
    let plan = planned(&json!({}));
    let stop = marquee::job::StopHandle::new();
    stop.stop(StopReason::Shutdown);
    let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let heard = told.clone();
    let ctx =
        marquee::engine::Ctx::new(stop, move |_| heard.store(true, std::sync::atomic::Ordering::SeqCst));
    let result = engine().run(&plan, &ctx);
    assert!(matches!(result, Err(EngineError::Stopped(StopReason::Shutdown))), "{result:?}");
    assert!(!told.load(std::sync::atomic::Ordering::SeqCst));
}

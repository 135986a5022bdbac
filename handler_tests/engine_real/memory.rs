//! `auto_unload` decides what stays, never what is painted.

use candle_core::{Device, Tensor};
use marquee::engine::real::known::KnownPrompts;
use marquee::engine::{Ctx, Engine};
use marquee::input::Plan;
use marquee::job::StopReason;
use marquee::models::flux::pipeline::Prompt;
use marquee::models::ops::Rounding;
use serde_json::{Value, json};

use super::{background, bytes, engine, engine_in, models, planned, run, watched};

#[test]
fn the_picture_is_the_same_whatever_stays_on_the_device() {
    let changed = json!({"composition_strength": 0.1});
    let with = |unload: Value| {
        let mut changes = changed.clone();
        changes["auto_unload"] = unload;
        planned(&changes)
    };
    let reference = engine().run(&with(json!(true)), &Ctx::detached()).unwrap();
    let mut kept = engine();
    for unload in [json!(false), json!("auto")] {
        let made = kept.run(&with(unload.clone()), &Ctx::detached()).unwrap();
        for (a, b) in [
            (&reference.step1, &made.step1),
            (&reference.step2, &made.step2),
            (&reference.final_image, &made.final_image),
        ] {
            assert_eq!(bytes(a.as_ref()), bytes(b.as_ref()), "{unload}");
        }
    }
}

/// Moves to the device and from it while `plan` runs.
fn moves(engine: &mut dyn Engine, plan: &Plan) -> (usize, usize) {
    let memory = engine.run(plan, &Ctx::detached()).unwrap().memory;
    let moves = memory["moves"].as_array().unwrap();
    let count = |end: &str| moves.iter().filter(|step| step[end] == "device").count();
    (count("to"), count("from"))
}

fn scene(unload: bool) -> Plan {
    planned(&background(&json!({"auto_unload": unload})))
}

#[test]
fn flux_in_8_bits_moves_fewer_bytes_and_paints_nearly_the_same() {
    let moved = |memory: &Value| -> u64 {
        let moves = memory["moves"].as_array().unwrap().iter();
        let flux = moves.filter(|step| step["model"] == "FLUX transformer" && step["to"] == "device");
        flux.map(|step| step["bytes"].as_u64().unwrap()).sum()
    };
    let plain = run(&background(&json!({})));
    for rounding in [Rounding::E4m3, Rounding::Int8] {
        let mut engine = engine_in(models("dev"), Some(rounding));
        let made = [true, false].map(|unload| engine.run(&scene(unload), &Ctx::detached()).unwrap());
        let [first, again] = [&made[0], &made[1]].map(|made| bytes(made.final_image.as_ref()));
        assert_eq!(first, again, "{rounding}");
        let reference = bytes(plain.final_image.as_ref());
        assert_ne!(first, reference, "{rounding}");
        let apart: u64 = first.iter().zip(reference).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(apart < 4 * first.len() as u64, "{rounding}: {apart} over {} bytes", first.len());
        assert!(moved(&made[0].memory) < moved(&plain.memory) / 2, "{rounding}");
    }
}

#[test]
fn what_may_stay_spares_the_next_job_its_moves() {
    let mut engine = engine();
    // CLIP, T5, conditioner, transformer, VAE.
    assert_eq!(moves(&mut engine, &scene(false)), (5, 0));
    assert_eq!(moves(&mut engine, &scene(false)), (0, 0));
    assert_eq!(moves(&mut engine, &scene(true)), (0, 5));
    // The same words again: neither CLIP nor T5.
    assert_eq!(moves(&mut engine, &scene(true)), (3, 3));
    let other = planned(&background(&json!({"auto_unload": true, "bg_prompt": "a quiet lake"})));
    assert_eq!(moves(&mut engine, &other), (5, 5));
}

#[test]
fn words_that_were_read_before_give_the_same_picture() {
    let plan = |changes: Value| planned(&background(&changes));
    let scene = |seed: u64| plan(json!({"auto_unload": true, "seed": seed, "true_cfg_scale": 2.0}));
    let mut engine = engine();
    let mut made = |seed| {
        let made = engine.run(&scene(seed), &Ctx::detached()).unwrap();
        bytes(made.final_image.as_ref()).to_vec()
    };
    let (first, second, again) = (made(1), made(2), made(1));
    assert_eq!(first, again);
    assert_ne!(first, second);
    let fresh = self::engine().run(&scene(2), &Ctx::detached()).unwrap();
    assert_eq!(second, bytes(fresh.final_image.as_ref()));
}

#[test]
fn the_prompt_that_was_not_asked_for_longest_is_forgotten() {
    let cpu = Device::Cpu;
    let prompt = |value: f32| {
        let part = Tensor::full(value, (1, 2), &cpu).unwrap();
        Prompt { embeds: part.clone(), pooled: part }
    };
    let mut known = KnownPrompts::default();
    assert!(known.all([].into_iter()));
    for number in 0..32u8 {
        known.keep(&format!("prompt {number}"), &prompt(f32::from(number))).unwrap();
    }
    // A job that needs the oldest and two new ones, one of them twice: what is kept for it pushes out another.
    assert_eq!(known.unknown(&["new", "prompt 0", "newer", "new"]), ["new", "newer"]);
    known.keep("new", &prompt(40.0)).unwrap();
    known.keep("newer", &prompt(41.0)).unwrap();
    let found = known.get("prompt 0", &cpu).unwrap().unwrap();
    assert_eq!(found.embeds.to_vec2::<f32>().unwrap(), [[0.0, 0.0]]);
    assert!(!known.all(["prompt 1"].into_iter()) && !known.all(["prompt 2"].into_iter()));
    known.keep("prompt 5", &prompt(55.0)).unwrap();
    known.keep("one more", &prompt(32.0)).unwrap();
    assert!(known.all(["prompt 0", "prompt 4", "prompt 31", "new", "one more"].into_iter()));
    assert!(!known.all(["prompt 0", "prompt 3"].into_iter()));
    assert!(known.get("prompt 3", &cpu).unwrap().is_none());
    let found = known.get("prompt 5", &cpu).unwrap().unwrap();
    assert_eq!(found.pooled.to_vec2::<f32>().unwrap(), [[55.0, 55.0]]);
}

#[test]
fn a_job_that_ends_early_leaves_nothing_behind_that_may_not_stay() {
    let mut engine = engine();
    let (stopped, _) = watched(&mut engine, &scene(true), |event, stop| {
        if event.done == 1 {
            stop.stop(StopReason::Requested);
        }
    });
    assert!(stopped.is_err());
    assert_eq!(moves(&mut engine, &scene(false)), (3, 0), "something stayed after the stop");
}

//! `auto_unload` decides what stays, never what is painted.

use marquee::engine::{Ctx, Engine};
use serde_json::{Value, json};

use super::{bytes, engine, planned};

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

#[test]
fn what_may_stay_spares_the_next_job_its_moves() {
    let background =
        |unload: bool| planned(&json!({"stop_step": 1, "text_content": null, "auto_unload": unload}));
    let moves = |engine: &mut dyn Engine, unload| {
        let memory = engine.run(&background(unload), &Ctx::detached()).unwrap().memory;
        let moves = memory["moves"].as_array().unwrap();
        let to = |place: &str| moves.iter().filter(|step| step["to"] == place).count();
        (to("device"), moves.iter().filter(|step| step["from"] == "device").count())
    };
    let mut engine = engine();
    // CLIP, T5, conditioner, transformer, VAE.
    assert_eq!(moves(&mut engine, false), (5, 0));
    assert_eq!(moves(&mut engine, false), (0, 0));
    assert_eq!(moves(&mut engine, true), (0, 5));
    assert_eq!(moves(&mut engine, true), (5, 5));
}

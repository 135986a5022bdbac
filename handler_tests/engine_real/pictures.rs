//! What comes out: sizes, seeds, modes, steps on their own.

use marquee::engine::{Artifacts, Ctx, Engine};
use marquee::imaging::composite::over;
use marquee::imaging::placement::reposition_text;
use marquee::input::plan::TextPosition;
use serde_json::{Value, json};

use super::{base64, bytes, engine, engine_of, models, photo, planned, run};

fn pictures(artifacts: &Artifacts) -> [&[u8]; 3] {
    [&artifacts.step1, &artifacts.step2, &artifacts.final_image].map(|image| bytes(image.as_ref()))
}

#[test]
fn a_whole_job_gives_three_pictures_of_its_size_and_an_account() {
    let artifacts = run(&json!({"product_image": photo(), "width": 320}));
    for image in [&artifacts.step1, &artifacts.step2, &artifacts.final_image] {
        let image = image.as_ref().unwrap();
        assert_eq!((image.width(), image.height()), (320, 256));
    }
    assert!(artifacts.step2.as_ref().unwrap().color().has_alpha());
    let [step1, step2, last] = pictures(&artifacts);
    assert!(step1 != step2 && step1 != last);
    assert!(artifacts.memory["peak_bytes"].as_u64().unwrap() > 0, "{}", artifacts.memory);
    assert!(artifacts.device_lost.is_none());
    eprintln!("{:?} {:?}", artifacts.timings, artifacts.warnings);
}

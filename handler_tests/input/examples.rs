//! The payloads of `examples/` are accepted without a single remark.

use std::path::Path;

use marquee::progress::Step;
use serde_json::Value;

use super::accepted;

fn example(name: &str) -> marquee::input::Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let job: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    accepted(&job["input"])
}

#[test]
fn every_example_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "json"))
        .collect();
    names.sort();
    assert_eq!(names, ["background_only.json", "korean.json", "summer_sale.json", "text_only.json"]);
    for name in names {
        let made = example(&name);
        assert!(made.warnings.is_empty(), "{name}: {:?}", made.warnings);
        assert!(made.test_mode, "{name}");
    }
}

#[test]
fn summer_sale_runs_everything() {
    let made = example("summer_sale.json");
    assert_eq!(
        (made.start, made.stop, made.width, made.height),
        (Step::Background, Step::Composition, 1024, 1024)
    );
    assert_eq!(made.text.unwrap().content, "Summer Sale");
}

#[test]
fn text_only_starts_from_a_supplied_background() {
    let made = example("text_only.json");
    assert_eq!((made.start, made.stop), (Step::Text, Step::Composition));
    assert!(made.step1_image.is_some() && made.background.is_none());
}

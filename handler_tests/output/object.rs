//! The object: its members, its pictures, its refusals.

use image::{DynamicImage, ImageFormat};
use marquee::engine::Artifacts;
use marquee::job::FailureKind;
use marquee::output::document::{Facts, finite};
use marquee::output::{Ahead, Document, render};
use marquee::progress::Step;
use serde_json::{Value, json};

use super::{artifacts, noise, parsed, phrase, picture, planned};

#[test]
fn members_come_in_the_documented_order() {
    let plan = planned(&json!({ "text_content": "x", "nonsense": 1 }));
    let output = parsed(&render(artifacts(64), &plan).unwrap());
    let names: Vec<_> = output.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["status", "images", "image_formats", "seed", "warnings", "timings", "memory", "parameters"]
    );
    assert_eq!(output["status"], "completed");
    assert_eq!(output["seed"], 7);
    assert_eq!(output["memory"], json!({ "peak": 12 }));
    assert_eq!(output["parameters"], Value::Object(plan.parameters.clone()));
    assert!(output["warnings"][0].as_str().unwrap().contains("nonsense"));
    assert_eq!(output["warnings"][1], "from the engine");
    let images: Vec<_> = output["images"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(images, ["step1_result", "step2_result", "final_result"]);
}

#[test]
fn timings_are_seconds_by_step_and_sub_step() {
    let output = parsed(&render(artifacts(16), &planned(&json!({}))).unwrap());
    let timings = &output["timings"];
    assert_eq!(timings["step1_background"], json!({ "background_generation": 1.5, "total": 1.5 }));
    assert_eq!(
        timings["step2_text"],
        json!({ "text_canvas": 0.01, "text_generation": 2.0005, "total": 2.0105 })
    );
    assert_eq!(timings["step3_composite"], json!({ "composition": 1.0, "total": 1.0 }));
    let encoding = timings["encoding"].as_f64().unwrap();
    assert!((timings["total"].as_f64().unwrap() - 4.5105 - encoding).abs() < 1e-5);
}

#[test]
fn lossless_formats_return_the_very_pixels() {
    for (word, format) in [("png", ImageFormat::Png), ("webp", ImageFormat::WebP)] {
        let output = parsed(&render(artifacts(64), &planned(&json!({ "output_format": word }))).unwrap());
        for (name, wanted) in
            [("step1_result", noise(64, 1)), ("step2_result", phrase(64)), ("final_result", noise(64, 2))]
        {
            assert_eq!(picture(&output, name), (wanted, format), "{name}");
            assert_eq!(output["image_formats"][name], word);
        }
    }
}

#[test]
fn jpeg_keeps_transparent_images_as_png() {
    let output = parsed(&render(artifacts(64), &planned(&json!({ "output_format": "jpeg" }))).unwrap());
    assert_eq!(picture(&output, "final_result").1, ImageFormat::Jpeg);
    assert_eq!(picture(&output, "step2_result"), (phrase(64), ImageFormat::Png));
    let formats = json!({ "step1_result": "jpeg", "step2_result": "png", "final_result": "jpeg" });
    assert_eq!(output["image_formats"], formats);
    assert!(output["warnings"].to_string().contains("step2_result is transparent"), "{}", output["warnings"]);
}

#[test]
fn intermediates_can_be_left_out() {
    let output = parsed(&render(artifacts(16), &planned(&json!({ "return_intermediate": false }))).unwrap());
    assert_eq!(output["images"].as_object().unwrap().len(), 1);
    assert_eq!(picture(&output, "final_result").0, noise(16, 2));
}

#[test]
fn equal_pictures_are_encoded_once() {
    let only_background =
        || Artifacts { step1: Some(noise(32, 1)), final_image: Some(noise(32, 1)), ..Artifacts::default() };
    let document = Document::encode(only_background(), &planned(&json!({}))).unwrap();
    assert_eq!(document.pictures[0].file.as_ptr(), document.pictures[1].file.as_ptr());
    let output = parsed(&document.write().unwrap());
    assert_eq!(output["images"]["step1_result"], output["images"]["final_result"]);
    assert_eq!(picture(&output, "final_result").0, noise(32, 1));
}

#[test]
fn what_was_encoded_while_the_engine_went_on_is_the_answers() {
    let plan = planned(&json!({ "output_format": "jpeg" }));
    let (made, ahead) = (artifacts(64), Ahead::of(&plan));
    for (step, image) in [(Step::Background, &made.step1), (Step::Text, &made.step2)] {
        ahead.begin(step, image.clone().unwrap());
    }
    // Of a merge that was not delivered.
    ahead.begin(Step::Composition, noise(64, 3));
    let document = Document::encode_with(made, Facts::of(&plan), &ahead).unwrap();
    let plain = Document::encode(artifacts(64), &plan).unwrap();
    for (picture, same) in document.pictures.iter().zip(&plain.pictures) {
        assert_eq!((picture.name, picture.format, &picture.file), (same.name, same.format, &same.file));
    }
    assert_eq!(document.warnings, plain.warnings);
}

#[test]
fn a_picture_is_encoded_ahead_if_the_answer_has_it_and_not_again() {
    // Another format than the answer's shows which file it is.
    for (fields, taken) in
        [(json!({}), [true, true]), (json!({ "return_intermediate": false }), [false, true])]
    {
        let mut fields = fields;
        fields["output_format"] = "webp".into();
        fields["text_content"] = "x".into();
        let ahead = Ahead::of(&planned(&fields));
        let made = artifacts(64);
        ahead.begin(Step::Background, made.step1.clone().unwrap());
        ahead.begin(Step::Composition, made.final_image.clone().unwrap());
        let document = Document::encode_with(made, Facts::of(&planned(&json!({}))), &ahead).unwrap();
        let webp = |name: &str| {
            let picture = document.pictures.iter().find(|picture| picture.name == name).unwrap();
            image::guess_format(&picture.file).unwrap() == ImageFormat::WebP
        };
        assert_eq!([webp("step1_result"), webp("final_result")], taken, "{fields}");
        assert!(!webp("step2_result"));
    }
}

#[test]
fn size_is_exact() {
    for side in [16, 17, 18, 64] {
        let mut document =
            Document::encode(artifacts(side), &planned(&json!({ "text_content": "\"세일\"" }))).unwrap();
        for _ in 0..3 {
            let size = document.size().unwrap();
            assert_eq!(document.write().unwrap().get().len() as u64, size);
            document.pictures.pop();
        }
        assert!(document.pictures.is_empty());
        assert_eq!(document.write().unwrap().get().len() as u64, document.size().unwrap());
    }
}

#[test]
fn what_json_cannot_express_is_a_named_failure() {
    for number in [f64::NAN, f64::INFINITY] {
        let failure = finite("step1_background", number).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unserialisable);
        assert!(failure.message.contains("step1_background"), "{failure}");
    }
    assert_eq!(finite("x", 1.5).unwrap(), json!(1.5));
    let empty = Artifacts { final_image: Some(DynamicImage::new_rgb8(0, 5)), ..Artifacts::default() };
    let failure = render(empty, &planned(&json!({}))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unserialisable);
    assert!(failure.message.contains("final_result") && failure.message.contains("0 x 5"), "{failure}");
    let nothing = render(Artifacts::default(), &planned(&json!({}))).unwrap_err();
    assert_eq!(nothing.kind, FailureKind::Unserialisable);
}

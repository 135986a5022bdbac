//! What comes out: sizes, seeds, modes, steps on their own.

use std::sync::{Arc, Mutex};

use image::RgbImage;
use marquee::engine::Artifacts;
use marquee::imaging::composite::over;
use marquee::imaging::placement::{Band, product_corner, product_size, reposition_text};
use marquee::input::plan::{ProductPosition, TextPosition};
use marquee::progress::Step;
use serde_json::json;

use super::{EARLIER, background, base64, bytes, engine, engine_of, models, photo, planned, run, third_step};
use marquee::engine::{Ctx, Engine};

fn pictures(artifacts: &Artifacts) -> [&[u8]; 3] {
    [&artifacts.step1, &artifacts.step2, &artifacts.final_image].map(|image| bytes(image.as_ref()))
}

/// Rows in which two pictures differ.
fn changed_rows(a: &RgbImage, b: &RgbImage) -> Vec<u32> {
    (0..a.height()).filter(|&y| (0..a.width()).any(|x| a.get_pixel(x, y) != b.get_pixel(x, y))).collect()
}

#[test]
fn a_whole_job_gives_three_pictures_of_its_size_and_an_account() {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&shown);
    let ctx = Ctx::detached().showing(move |step, image| seen.lock().unwrap().push((step, image)));
    let plan = planned(&json!({"product_image": photo(), "strength": 0.07, "width": 320}));
    let artifacts = engine().run(&plan, &ctx).unwrap();
    let made =
        [&artifacts.step1, &artifacts.step2, &artifacts.final_image].map(|image| image.clone().unwrap());
    let expected: Vec<_> = Step::ALL.into_iter().zip(made).collect();
    assert!(*shown.lock().unwrap() == expected, "each step's picture is shown as it is among the artifacts");
    for image in [&artifacts.step1, &artifacts.step2, &artifacts.final_image] {
        let image = image.as_ref().unwrap();
        assert_eq!((image.width(), image.height()), (320, 256));
    }
    assert!(artifacts.step2.as_ref().unwrap().color().has_alpha());
    let [step1, step2, last] = pictures(&artifacts);
    assert!(step1 != step2 && step1 != last);
    assert!(artifacts.memory["peak_bytes"].as_u64().unwrap() > 0, "{}", artifacts.memory);
    assert!(!artifacts.memory["moves"].as_array().unwrap().is_empty(), "{}", artifacts.memory);
    assert!(artifacts.device_lost.is_none());
}

#[test]
fn the_steps_on_their_own_make_what_the_whole_job_makes() {
    let whole = run(&json!({"composition_strength": 0.1}));
    let [step1, step2, last] = pictures(&whole);
    let encoded = |image: &Option<image::DynamicImage>| base64(image.as_ref().unwrap());
    let second = run(&json!({"start_step": 2, "stop_step": 2, "step1_image": encoded(&whole.step1)}));
    assert_eq!(bytes(second.final_image.as_ref()), step2, "step 2 alone");
    assert!(second.step1.is_none());
    assert_eq!(pictures_of_two(&EARLIER), [step1, step2], "steps 1 and 2");
    let third = run(&third_step());
    assert_eq!(bytes(third.final_image.as_ref()), last, "step 3 alone");
    let first = run(&background(&json!({})));
    assert_eq!(bytes(first.final_image.as_ref()), step1, "step 1 alone");
    assert!(first.step2.is_none());
}

fn pictures_of_two(artifacts: &Artifacts) -> [&[u8]; 2] {
    [&artifacts.step1, &artifacts.step2].map(|image| bytes(image.as_ref()))
}

#[test]
fn the_seed_decides_every_step() {
    let other = run(&json!({"stop_step": 2, "seed": 5}));
    for (one, other) in pictures_of_two(&EARLIER).into_iter().zip(pictures_of_two(&other)) {
        assert_ne!(one, other);
    }
    let mut third = third_step();
    third["seed"] = json!(5);
    assert_ne!(bytes(run(&third).final_image.as_ref()), bytes(run(&third_step()).final_image.as_ref()));
}

#[test]
fn a_blank_text_ends_with_the_background() {
    let blank = run(&json!({"text_content": " "}));
    assert!(blank.step2.is_none());
    assert_eq!(bytes(blank.step1.as_ref()), bytes(blank.final_image.as_ref()));
    assert_eq!(blank.timings.len(), 1);
}

#[test]
fn a_product_changes_the_scene_where_it_is_placed_and_nowhere_else() {
    let without = EARLIER.step1.as_ref().unwrap().to_rgb8();
    for strength in [0.0, 0.07] {
        let job = background(&json!({ "product_image": photo(), "strength": strength,
            "product_scale": 0.25, "product_position": [96, 160],
        }));
        let with = run(&job).step1.unwrap().into_rgb8();
        let rows = changed_rows(&without, &with);
        // 64 pixels high; the mask's margin and softness are another 8 at 256.
        assert!(rows.contains(&190), "{strength}: nothing was placed");
        assert!(rows.iter().all(|y| (150..236).contains(y)), "{strength}: {rows:?}");
    }
}

#[test]
fn a_product_that_is_cut_out_already_keeps_its_own_outline() {
    let disc = image::RgbaImage::from_fn(50, 50, |x, y| {
        let inside = x.abs_diff(25).pow(2) + y.abs_diff(25).pow(2) < 400;
        image::Rgba([200, 10, 10, if inside { 255 } else { 0 }])
    });
    let job = background(&json!({ "strength": 0, "product_image": base64(&disc.clone().into()),
        "product_position": "center", "product_scale": 0.25,
    }));
    let scene = EARLIER.step1.as_ref().unwrap().to_rgb8();
    let made = run(&job).step1.unwrap().into_rgb8();
    let size = product_size((39, 39), (256, 256), 0.25);
    let corner = product_corner(size, (256, 256), ProductPosition::Anchor { horizontal: 0, vertical: 0 });
    let (x, y) = (corner.0 as u32, corner.1 as u32);
    assert_eq!(made.get_pixel(x + size.0 / 2, y + size.1 / 2).0, [200, 10, 10]);
    assert_eq!(made.get_pixel(x, y), scene.get_pixel(x, y), "its corner is transparent");
}

#[test]
fn sdxl_paints_backgrounds_too_and_flux_merges_their_product() {
    let sdxl = run(&background(&json!({ "bg_model": "sdxl"})));
    assert_ne!(bytes(EARLIER.step1.as_ref()), bytes(sdxl.step1.as_ref()));
    let placed = background(&json!({ "bg_model": "sdxl", "product_image": photo(), "strength": 0.04,
    }));
    assert_ne!(bytes(run(&placed).step1.as_ref()), bytes(sdxl.step1.as_ref()));
}

#[test]
fn every_mode_merges_in_its_own_way() {
    let mut job = third_step();
    let mut made = Vec::new();
    for mode in ["overlay", "blend", "behind"] {
        job["composition_mode"] = json!(mode);
        let artifacts = run(&job);
        assert!(
            !artifacts.warnings.iter().any(|warning| warning.contains("step 3 failed")),
            "{mode}: {:?}",
            artifacts.warnings
        );
        made.push(artifacts.final_image.unwrap().into_bytes());
    }
    assert!(made[0] != made[1] && made[0] != made[2] && made[1] != made[2]);
}

#[test]
fn the_text_goes_where_it_is_sent_and_auto_is_one_of_these_places_or_between() {
    let mut job = third_step();
    // A whole canvas of haze has no place to go; a small text has.
    let small = image::RgbaImage::from_fn(256, 256, |x, y| {
        let inside = (100..150).contains(&x) && (100..120).contains(&y);
        image::Rgba([250, 240, 200, if inside { 255 } else { 0 }])
    });
    job["step2_image"] = json!(base64(&small.into()));
    let middle = |position: &str| {
        let (mut job, mut plain) = (job.clone(), job.clone());
        job["text_position"] = json!(position);
        plain["composition_strength"] = json!(0);
        plain["text_position"] = json!(position);
        let plan = planned(&plain);
        let rows =
            changed_rows(plan.step1_image.as_ref().unwrap(), &run(&job).final_image.unwrap().into_rgb8());
        f64::from(rows[0] + rows[rows.len() - 1]) / 2.0
    };
    let [top, center, bottom, auto] = ["top", "center", "bottom", "auto"].map(middle);
    assert!(top < 60.0 && (110.0..146.0).contains(&center) && bottom > 196.0, "{top} {center} {bottom}");
    assert!((top..=bottom).contains(&auto), "{auto}");
}

#[test]
fn an_auto_text_is_merged_with_the_prompt_of_its_band() {
    let mut job = third_step();
    let small = image::RgbaImage::from_fn(256, 256, |x, y| {
        let inside = (100..150).contains(&x) && (100..120).contains(&y);
        image::Rgba([250, 240, 200, if inside { 255 } else { 0 }])
    });
    job["step2_image"] = json!(base64(&small.into()));
    // Noise everywhere but where a text at the bottom stands (20 rows, 25 above the edge), and a row more: each row is held
    // against the next.
    let quiet = RgbImage::from_fn(256, 256, |x, y| {
        let value = if (211..232).contains(&y) { 90 } else { ((x * 37 + y * 91) % 251) as u8 };
        image::Rgb([value; 3])
    });
    job["step1_image"] = json!(base64(&quiet.into()));
    let [bottom, auto] = ["bottom", "auto"].map(|position| {
        job["text_position"] = json!(position);
        run(&job).final_image.unwrap()
    });
    assert!(bottom == auto, "another prompt, or another place");
}

#[test]
fn the_phrases_edges_steer_the_text() {
    let free = run(&json!({
        "start_step": 2, "stop_step": 2, "controlnet_conditioning_scale": 0,
        "step1_image": base64(EARLIER.step1.as_ref().unwrap()),
    }));
    assert_ne!(bytes(free.step2.as_ref()), bytes(EARLIER.step2.as_ref()));
}

#[test]
fn an_auto_text_is_read_by_the_band_that_it_ends_up_in() {
    let at = |top: u32| {
        image::RgbaImage::from_fn(256, 256, |x, y| {
            let inside = (100..150).contains(&x) && (top..top + 20).contains(&y);
            image::Rgba([250, 240, 200, if inside { 255 } else { 0 }])
        })
    };
    let band = |top| Band::of(TextPosition::Auto, &at(top));
    assert_eq!([band(10), band(118), band(220)], [Band::Top, Band::Center, Band::Bottom]);
    assert_eq!([band(74), band(76)], [Band::Top, Band::Center], "a third is 85.3; the text is 20 high");
    assert_eq!([band(160), band(162)], [Band::Center, Band::Bottom]);
    assert_eq!(Band::of(TextPosition::Bottom, &at(10)), Band::Bottom, "what was asked for counts");
}

#[test]
fn a_strength_of_zero_leaves_the_plain_composite() {
    let mut job = third_step();
    job["composition_strength"] = json!(0);
    let artifacts = run(&job);
    let plan = planned(&job);
    let (background, text) = (plan.step1_image.unwrap(), plan.step2_image.unwrap());
    let mut plain = background.clone();
    over(&mut plain, &reposition_text(&text, &background, TextPosition::Top), (0, 0));
    assert_eq!(artifacts.final_image.unwrap().into_rgb8(), plain);
    assert!(artifacts.memory["moves"].as_array().unwrap().is_empty(), "no net is needed");
}

#[test]
fn schnell_takes_the_place_of_dev() {
    let job = background(&json!({}));
    let plan = planned(&job);
    let schnell = engine_of(models("schnell")).run(&plan, &Ctx::detached()).unwrap();
    assert_ne!(bytes(schnell.step1.as_ref()), bytes(EARLIER.step1.as_ref()));
}

#[test]
fn true_guidance_and_negative_prompts_act_in_every_flux_run() {
    let mut job = third_step();
    let plain = run(&job);
    job["true_cfg_scale"] = json!(4.0);
    let guided = run(&job);
    assert_ne!(bytes(plain.final_image.as_ref()), bytes(guided.final_image.as_ref()));
    job["composition_negative_prompt"] = json!("green");
    assert_ne!(bytes(guided.final_image.as_ref()), bytes(run(&job).final_image.as_ref()));
}

#[test]
fn the_users_words_reach_the_merge() {
    let mut job = third_step();
    let plain = run(&job);
    job["composition_prompt"] = json!("wet neon street");
    assert_ne!(bytes(plain.final_image.as_ref()), bytes(run(&job).final_image.as_ref()));
}

#[test]
fn a_prompt_that_is_too_long_is_remarked_on() {
    let job = background(&json!({ "bg_model": "sdxl", "bg_prompt": "x ".repeat(100)}));
    let warnings = run(&job).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("longer than the 77")), "{warnings:?}");
}

//! `test_mode`: the run's rhythm, its determinism, and pictures that differ where they should.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage};
use marquee::engine::dummy::DummyEngine;
use marquee::engine::{Artifacts, Ctx, Engine, EngineError};
use marquee::imaging::codecs::encode;
use marquee::imaging::fonts::FontLibrary;
use marquee::imaging::masks::{alpha, bounds};
use marquee::input::Plan;
use marquee::input::plan::{
    AutoUnload, BackgroundModel, BackgroundPlan, CompositionMode, CompositionPlan, OutputFormat, OutputPlan,
    ProductPlan, ProductPosition, TextPlan, TextPosition,
};
use marquee::job::{StopHandle, StopReason};
use marquee::progress::{ProgressEvent, Step, SubStep};

const SIDE: u32 = 256;

fn engine() -> DummyEngine {
    DummyEngine::new(Arc::new(FontLibrary::without_system(Vec::new())), Duration::ZERO)
}

fn plan() -> Plan {
    Plan {
        start: Step::Background,
        stop: Step::Composition,
        width: SIDE,
        height: SIDE,
        seed: 11,
        test_mode: true,
        background: Some(BackgroundPlan {
            model: BackgroundModel::Flux,
            prompt: "a wooden table".to_owned(),
            negative_prompt: String::new(),
            steps: 7,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
            product: None,
        }),
        text: Some(TextPlan {
            content: "Summer Sale".to_owned(),
            prompt: "gold foil".to_owned(),
            negative_prompt: String::new(),
            steps: 5,
            controlnet_conditioning_scale: 1.0,
            font_name: None,
        }),
        composition: Some(CompositionPlan {
            mode: CompositionMode::Overlay,
            position: TextPosition::Top,
            prompt: None,
            negative_prompt: None,
            strength: 0.4,
            steps: 10,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
        }),
        step1_image: None,
        step2_image: None,
        auto_unload: [AutoUnload::Yes; 3],
        output: OutputPlan { format: OutputFormat::Png, return_intermediate: true },
        warnings: Vec::new(),
        parameters: serde_json::Map::new(),
    }
}

/// A red box on transparent ground.
fn red_box() -> DynamicImage {
    RgbaImage::from_fn(60, 80, |x, y| {
        if (10..50).contains(&x) && (10..70).contains(&y) { Rgba([210, 20, 30, 255]) } else { Rgba([0; 4]) }
    })
    .into()
}

fn with_product(image: DynamicImage) -> Plan {
    let mut plan = plan();
    plan.background.as_mut().unwrap().product = Some(ProductPlan {
        image,
        scale: 0.4,
        position: ProductPosition::Default,
        prompt: String::new(),
        negative_prompt: String::new(),
        strength: 0.5,
    });
    plan
}

fn run(plan: &Plan) -> Artifacts {
    engine().run(plan, &Ctx::detached()).unwrap()
}

#[allow(clippy::ref_option, reason = "called on fields of `Artifacts`")]
fn bytes(image: &Option<DynamicImage>) -> &[u8] {
    image.as_ref().unwrap().as_bytes()
}

/// Share of pixels in which two images differ.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.chunks(3).zip(b.chunks(3)).filter(|(a, b)| a != b).count() as f64 / (a.len() / 3) as f64
}

fn watched(
    plan: &Plan,
    stop: StopHandle,
    on: impl Fn(ProgressEvent) + Send + Sync + 'static,
) -> (Result<Artifacts, EngineError>, Vec<ProgressEvent>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let ctx = Ctx::new(stop, move |event| {
        seen.lock().unwrap().push(event);
        on(event);
    });
    let result = engine().run(plan, &ctx);
    let events = events.lock().unwrap().clone();
    (result, events)
}

#[test]
fn each_steps_picture_is_shown_as_it_is_among_the_artifacts() {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = shown.clone();
    let ctx = Ctx::detached().showing(move |step, image| seen.lock().unwrap().push((step, image)));
    let artifacts = engine().run(&plan(), &ctx).unwrap();
    let made = [artifacts.step1, artifacts.step2, artifacts.final_image].map(Option::unwrap);
    let expected: Vec<_> = Step::ALL.into_iter().zip(made).collect();
    assert!(*shown.lock().unwrap() == expected);
}

#[test]
fn progress_is_exactly_the_plans() {
    for plan in [plan(), with_product(red_box())] {
        let (result, events) = watched(&plan, StopHandle::new(), |_| ());
        let expected: Vec<ProgressEvent> = plan
            .sub_steps()
            .into_iter()
            .flat_map(|(sub_step, total)| {
                (0..=total).map(move |done| ProgressEvent { sub_step, done, total })
            })
            .collect();
        assert_eq!(events, expected);
        let timed: Vec<SubStep> = result.unwrap().timings.iter().map(|(sub_step, _)| *sub_step).collect();
        let planned: Vec<SubStep> = plan.sub_steps().iter().map(|(sub_step, _)| *sub_step).collect();
        assert_eq!(timed, planned);
    }
}

#[test]
fn a_stop_is_noticed_within_one_unit_of_any_sub_step() {
    let plan = with_product(red_box());
    for (sub_step, total) in plan.sub_steps() {
        let stop = StopHandle::new();
        let pull = stop.clone();
        let at = total / 2;
        let (result, events) = watched(&plan, stop, move |event| {
            if event.sub_step == sub_step && event.done == at {
                pull.stop(StopReason::Requested);
            }
        });
        assert!(matches!(result, Err(EngineError::Stopped(StopReason::Requested))), "{sub_step}: {result:?}");
        let last = events.last().unwrap();
        assert_eq!((last.sub_step, last.done), (sub_step, at), "nothing was reported after the stop");
    }
}

#[test]
fn a_slow_step_does_not_hide_a_stop() {
    let stop = StopHandle::new();
    let pull = stop.clone();
    let mut slow =
        DummyEngine::new(Arc::new(FontLibrary::without_system(Vec::new())), Duration::from_secs(3600));
    let ctx = Ctx::new(stop, move |_| {
        pull.stop(StopReason::Deadline);
    });
    assert!(
        matches!(slow.run(&plan(), &ctx), Err(EngineError::Stopped(StopReason::Deadline))),
        "and not in an hour"
    );
}

#[test]
fn a_step_takes_at_least_its_time() {
    let step = Duration::from_millis(15);
    let mut slow = DummyEngine::new(Arc::new(FontLibrary::without_system(Vec::new())), step);
    let mut plan = plan();
    (plan.text, plan.composition, plan.stop) = (None, None, Step::Background);
    let started = Instant::now();
    let artifacts = slow.run(&plan, &Ctx::detached()).unwrap();
    assert!(started.elapsed() >= step * 7);
    assert!(artifacts.timings[0].1 >= step * 7);
}

#[test]
fn the_same_plan_gives_the_same_bytes_whatever_auto_unload_says() {
    let mut reused = engine();
    let first = run(&with_product(red_box()));
    for auto_unload in [AutoUnload::Yes, AutoUnload::No, AutoUnload::Auto] {
        let mut plan = with_product(red_box());
        plan.auto_unload = [auto_unload; 3];
        let again = reused.run(&plan, &Ctx::detached()).unwrap();
        assert_eq!(bytes(&first.step1), bytes(&again.step1));
        assert_eq!(bytes(&first.step2), bytes(&again.step2));
        assert_eq!(bytes(&first.final_image), bytes(&again.final_image));
    }
}

#[test]
fn seed_and_prompt_change_the_picture() {
    let base = run(&plan());
    let mut other = plan();
    other.seed += 1;
    assert!(difference(bytes(&base.step1), bytes(&run(&other).step1)) > 0.5);
    let mut other = plan();
    other.background.as_mut().unwrap().prompt = "a sunny beach".into();
    assert!(difference(bytes(&base.step1), bytes(&run(&other).step1)) > 0.9);
    let mut other = plan();
    other.text.as_mut().unwrap().prompt = "polished chrome".into();
    assert!(difference(bytes(&base.step2), bytes(&run(&other).step2)) > 0.03, "the material");
}

#[test]
fn every_scene_is_a_picture() {
    for prompt in
        ["a wooden table", "beach", "desert dunes", "city at night", "minimal studio", "snow", "a quiet idea"]
    {
        let mut plan = plan();
        plan.background.as_mut().unwrap().prompt = prompt.into();
        let image = run(&plan).step1.unwrap().into_rgb8();
        let mean = image.iter().map(|&v| f64::from(v)).sum::<f64>() / image.len() as f64;
        let spread = image.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / image.len() as f64;
        assert!(
            (20.0..235.0).contains(&mean) && spread.sqrt() > 15.0,
            "{prompt}: mean {mean}, spread {spread}"
        );
    }
}

#[test]
fn images_have_the_plans_size_and_kind() {
    let mut plan = plan();
    (plan.width, plan.height) = (320, 256);
    let artifacts = run(&plan);
    for (image, channels) in [(&artifacts.step1, 3), (&artifacts.step2, 4), (&artifacts.final_image, 3)] {
        let image = image.as_ref().unwrap();
        assert_eq!((image.width(), image.height(), image.color().channel_count()), (320, 256, channels));
    }
    assert!(artifacts.warnings.is_empty(), "{:?}", artifacts.warnings);
}

#[test]
fn a_run_may_stop_early_and_go_on_later_with_the_same_result() {
    let whole = run(&plan());

    let mut first = plan();
    (first.stop, first.text, first.composition) = (Step::Background, None, None);
    let first = run(&first);
    assert!(first.step2.is_none());
    assert_eq!(bytes(&first.final_image), bytes(&whole.step1));

    let mut second = plan();
    (second.start, second.background) = (Step::Text, None);
    second.step1_image = first.step1.map(DynamicImage::into_rgb8);
    let second_result = run(&second);
    assert!(second_result.step1.is_none(), "only what ran is a result");
    assert_eq!(bytes(&second_result.final_image), bytes(&whole.final_image));

    let mut third = second;
    (third.start, third.text) = (Step::Composition, None);
    third.step2_image = second_result.step2.map(DynamicImage::into_rgba8);
    assert_eq!(bytes(&run(&third).final_image), bytes(&whole.final_image));
}

#[test]
fn a_missing_or_misfitting_step_image_is_named() {
    let mut lacking = plan();
    (lacking.start, lacking.background) = (Step::Text, None);
    let error = engine().run(&lacking, &Ctx::detached()).unwrap_err();
    assert!(matches!(&error, EngineError::Unfit(message) if message.contains("step1_image")), "{error}");
    lacking.step1_image = Some(RgbImage::new(8, 8));
    let error = engine().run(&lacking, &Ctx::detached()).unwrap_err();
    assert!(
        matches!(&error, EngineError::Unfit(message) if message.contains("8 x 8, expected 256 x 256")),
        "{error}"
    );
}

#[test]
fn a_character_without_a_glyph_is_the_customers_to_mend() {
    let mut plan = plan();
    plan.text.as_mut().unwrap().content = "여름".into();
    let error = engine().run(&plan, &Ctx::detached()).unwrap_err();
    assert!(
        matches!(&error, EngineError::Unfit(message) if message.contains('여') && message.contains("FONT_DIRS")),
        "{error}"
    );
}

#[test]
fn composition_modes_differ() {
    let mut finals = BTreeMap::new();
    for mode in [CompositionMode::Overlay, CompositionMode::Blend, CompositionMode::Behind] {
        let mut plan = with_product(red_box());
        plan.composition.as_mut().unwrap().mode = mode;
        finals.insert(format!("{mode:?}"), run(&plan));
    }
    for (a, b) in [("Overlay", "Blend"), ("Overlay", "Behind"), ("Blend", "Behind")] {
        let share = difference(bytes(&finals[a].final_image), bytes(&finals[b].final_image));
        assert!(share > 0.02, "{a} and {b} differ in {share} of the pixels");
    }
}

#[test]
fn behind_leaves_the_product_in_front_of_the_text() {
    let at_centre = |mode, position| {
        let mut plan = with_product(red_box());
        let background = plan.background.as_mut().unwrap();
        let product = background.product.as_mut().unwrap();
        product.position = ProductPosition::Anchor { horizontal: 0, vertical: 0 };
        product.scale = 0.7;
        let composition = plan.composition.as_mut().unwrap();
        (composition.mode, composition.position) = (mode, position);
        run(&plan)
    };
    let red = |artifacts: &Artifacts| {
        let image = artifacts.final_image.as_ref().unwrap().to_rgb8();
        // The product's inner part, clear of its soft border.
        (100..156)
            .flat_map(|x| (80..176).map(move |y| (x, y)))
            .filter(|&(x, y)| {
                let Rgb([r, g, b]) = *image.get_pixel(x, y);
                r > 150 && g < 80 && b < 80
            })
            .count()
    };
    let behind = at_centre(CompositionMode::Behind, TextPosition::Center);
    let over = at_centre(CompositionMode::Overlay, TextPosition::Center);
    assert_eq!(red(&behind), 56 * 96, "the product is whole: {:?}", behind.warnings);
    assert!(red(&over) < 56 * 96 * 9 / 10, "overlay covers it");
}

#[test]
fn behind_with_nothing_in_front_says_so() {
    let mut plan = plan();
    plan.composition.as_mut().unwrap().mode = CompositionMode::Behind;
    let artifacts = run(&plan);
    assert!(artifacts.warnings.iter().any(|warning| warning.contains("behind")), "{:?}", artifacts.warnings);
}

#[test]
fn the_text_keeps_clear_of_its_margin_and_leaves_the_rest_alone() {
    let artifacts = run(&plan());
    let step1 = artifacts.step1.unwrap().into_rgb8();
    let last = artifacts.final_image.unwrap().into_rgb8();
    let changed = |y: u32| (0..SIDE).any(|x| step1.get_pixel(x, y) != last.get_pixel(x, y));
    assert!(changed(30), "100 px at 1024 is 25 px here");
    assert!((200..SIDE).all(|y| !changed(y)), "far from the text nothing is repainted");
    let text = bounds(&alpha(&artifacts.step2.unwrap().into_rgba8()), 8).unwrap();
    assert_eq!(text.y0, 25);
}

#[test]
fn a_product_is_placed_cut_out_or_whole_with_a_remark() {
    let reds = |artifacts: &Artifacts| {
        let image = artifacts.step1.as_ref().unwrap().to_rgb8();
        image.pixels().filter(|Rgb([r, g, b])| *r > 180 && *g < 60 && *b < 60).count()
    };
    // 40 % of 256 px is the height of what is visible: 102 x 68.
    let cut = run(&with_product(red_box()));
    assert!(reds(&cut).abs_diff(102 * 68) < 102 * 68 / 12, "{}", reds(&cut));

    let on_white = RgbImage::from_fn(300, 400, |x, y| {
        if (50..250).contains(&x) && (50..350).contains(&y) {
            Rgb([210, 20, 30])
        } else {
            Rgb([250, 250, 248])
        }
    });
    let keyed = run(&with_product(on_white.into()));
    assert!(keyed.warnings.is_empty(), "{:?}", keyed.warnings);
    assert!(reds(&keyed).abs_diff(reds(&cut)) < reds(&cut) / 8, "{} and {}", reds(&keyed), reds(&cut));

    let noisy = RgbImage::from_fn(60, 80, |x, y| {
        if (x * 7 + y * 13) % 5 < 2 { Rgb([210, 20, 30]) } else { Rgb([20, 90, 200]) }
    });
    let whole = run(&with_product(noisy.into()));
    assert!(whole.warnings[0].contains("plain background"), "{:?}", whole.warnings);
}

#[test]
fn a_product_outside_the_canvas_is_cropped_not_a_panic() {
    for (x, y) in [(-40, -40), (250, 250), (i32::MIN, i32::MAX)] {
        let mut plan = with_product(red_box());
        plan.background.as_mut().unwrap().product.as_mut().unwrap().position = ProductPosition::At { x, y };
        run(&plan);
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same_pixels() {
    let artifacts = run(&plan());
    for image in [artifacts.step2.unwrap(), artifacts.final_image.unwrap()] {
        for format in [OutputFormat::Png, OutputFormat::WebP] {
            let back = image::load_from_memory(&encode(&image, format).unwrap()).unwrap();
            assert_eq!(back.as_bytes(), image.as_bytes(), "{format:?}");
        }
        let jpeg = image::load_from_memory(&encode(&image, OutputFormat::Jpeg).unwrap()).unwrap();
        let (found, sent) = (jpeg.to_rgb8(), image.to_rgb8());
        let error = found.iter().zip(sent.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>()
            / found.len() as f64;
        assert!(error < 6.0, "mean error {error}");
    }
}

#[test]
fn a_foreground_that_hides_the_text_is_named() {
    let mut plan = plan();
    (plan.start, plan.background, plan.text) = (Step::Composition, None, None);
    // A bright disc over a dark scene, just where the text goes.
    plan.step1_image = Some(RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (dx, dy) = (x.abs_diff(SIDE / 2), y.abs_diff(SIDE / 2));
        if dx * dx + dy * dy < 80 * 80 { Rgb([235, 225, 190]) } else { Rgb([24, 22, 40]) }
    }));
    plan.step2_image = Some(RgbaImage::from_fn(SIDE, SIDE, |x, y| {
        let inside = x.abs_diff(SIDE / 2) < 40 && y.abs_diff(SIDE / 2) < 20;
        if inside { Rgba([220, 10, 20, 255]) } else { Rgba([0; 4]) }
    }));
    if let Some(composition) = &mut plan.composition {
        (composition.mode, composition.position) = (CompositionMode::Behind, TextPosition::Center);
    }
    let made = engine().run(&plan, &Ctx::detached()).unwrap();
    assert!(
        made.warnings.iter().any(|warning| warning.contains("of the text; another text_position")),
        "{:?}",
        made.warnings
    );
}

//! Which nets a job visits, what its prompts say, what it draws from: before anything is loaded.

use std::collections::HashSet;

use marquee::engine::real::itinerary::{Act, Net, Roster, Stop, itinerary, stops};
use marquee::engine::real::runs::flux_runs;
use marquee::engine::real::seeds::seed_of;
use marquee::engine::real::steps::prompts;
use marquee::engine::real::workspace::Precision;
use marquee::imaging::placement::Band;
use marquee::input::plan::CompositionMode;
use marquee::progress::SubStep;
use serde_json::{Value, json};

use super::{base64, photo, planned};

fn road(changes: &Value) -> Vec<Stop> {
    stops(&planned(changes), Precision::HALF, false)
}

fn visited(changes: &Value) -> Vec<(SubStep, Act)> {
    road(changes).into_iter().map(|stop| (stop.sub_step, stop.act)).collect()
}

#[test]
fn a_whole_job_reads_flux_prompts_once_and_each_net_comes_when_it_is_due() {
    use Act::{Decode, Denoise, Encode, Read, ReadPooled, ReadWords, Segment, Tables};
    use SubStep::{
        BackgroundGeneration, Composition, FeatureInjection, Segmentation, TextGeneration, TextSegmentation,
    };
    assert_eq!(
        visited(&json!({"product_image": photo(), "composition_mode": "behind"})),
        [
            (Segmentation, Segment),
            (BackgroundGeneration, ReadPooled),
            (BackgroundGeneration, ReadWords),
            (BackgroundGeneration, Tables),
            (BackgroundGeneration, Denoise),
            (BackgroundGeneration, Decode),
            (FeatureInjection, Encode),
            (FeatureInjection, Denoise),
            (FeatureInjection, Decode),
            (TextGeneration, Read),
            (TextGeneration, Denoise),
            (TextGeneration, Decode),
            (TextSegmentation, Segment),
            (Composition, Segment),
            (Composition, Encode),
            (Composition, Denoise),
            (Composition, Decode),
        ]
    );
}

#[test]
fn a_job_whose_prompts_are_known_visits_no_encoder_of_flux() {
    let plan = planned(&json!({"product_image": photo()}));
    let (all, known) = (stops(&plan, Precision::HALF, false), stops(&plan, Precision::HALF, true));
    let reads = |stop: &&Stop| matches!(stop.act, Act::ReadPooled | Act::ReadWords);
    assert_eq!(all.iter().filter(reads).count(), 2);
    let others: Vec<&Stop> = all.iter().filter(|stop| !reads(stop)).collect();
    assert_eq!(known.iter().collect::<Vec<_>>(), others);
}

#[test]
fn a_job_visits_no_net_that_it_has_no_use_for() {
    let nets =
        |changes: &Value| -> HashSet<Net> { road(changes).into_iter().flat_map(|stop| stop.nets).collect() };
    let flux = [Net::FluxClip, Net::FluxT5, Net::FluxConditioner, Net::FluxTransformer, Net::FluxVae].into();
    assert_eq!(nets(&json!({"stop_step": 1})), flux);
    assert_eq!(nets(&json!({"text_content": null})), flux);
    let sdxl: HashSet<_> = [Net::SdxlClipL, Net::SdxlClipG, Net::SdxlUnet, Net::SdxlVae].into();
    assert_eq!(nets(&json!({"stop_step": 1, "bg_model": "sdxl"})), sdxl);
    let unsteered = nets(&json!({"controlnet_conditioning_scale": 0}));
    assert!(unsteered.contains(&Net::SdxlUnet) && !unsteered.contains(&Net::SdxlControlNet));
    let unmerged = json!({"bg_model": "sdxl", "composition_strength": 0});
    assert!(nets(&unmerged).is_disjoint(&flux), "a strength of 0 paints nothing");
    let cut_out = image::RgbaImage::from_pixel(40, 40, image::Rgba([9, 9, 9, 0]));
    let placed = json!({"stop_step": 1, "product_image": base64(&cut_out.into())});
    assert!(!nets(&placed).contains(&Net::BiRefNet), "it has an outline of its own");
}

#[test]
fn memory_is_told_steps_that_never_fall_and_work_that_grows_with_the_picture() {
    let plan = planned(&json!({"product_image": photo()}));
    let announced = itinerary(&plan, &stops(&plan, Precision::HALF, false), &Roster::numbered());
    let steps: Vec<u8> = announced.visits.iter().map(|visit| visit.step).collect();
    assert!(steps.is_sorted() && steps.first() == Some(&1) && steps.last() == Some(&3), "{steps:?}");
    assert_eq!(announced.rules.len(), 3);
    assert!(announced.visits.iter().all(|visit| !visit.models.is_empty() && visit.work > 0));
    assert_eq!(announced.visits[4].label, "background_generation: denoise");
    let at = |width: u32| road(&json!({"width": width, "height": width}));
    for (small, large) in at(512).iter().zip(at(1024)) {
        let grows = matches!(large.act, Act::Encode | Act::Denoise | Act::Decode);
        assert!(if grows { large.work > small.work } else { large.work == small.work }, "{}", large.label());
    }
    let doubled = stops(&plan, Precision { flux: 4, ..Precision::HALF }, false);
    let denoise = |stops: &[Stop]| stops[4].work;
    assert!(denoise(&doubled) > denoise(&stops(&plan, Precision::HALF, false)));
}

#[test]
fn each_flux_run_knows_its_prompts_before_anything_is_painted() {
    let plan = planned(&json!({
        "product_image": photo(), "text_position": "auto", "bg_negative_prompt": "cars", "true_cfg_scale": 2,
        "guidance_scale": 6, "composition_prompt": "at dusk", "composition_negative_prompt": "rain",
    }));
    let runs = flux_runs(&plan);
    let of: Vec<_> = runs.iter().map(|run| run.sub_step).collect();
    assert_eq!(of, [SubStep::BackgroundGeneration, SubStep::FeatureInjection, SubStep::Composition]);
    assert_eq!(runs[0].prompts, ["a beach"]);
    assert_eq!(runs[0].negative, Some((2.0, "cars".to_owned())));
    assert_eq!((runs[0].guidance, runs[0].strength, runs[0].steps), (6.0, None, 2));
    assert_eq!((runs[1].guidance, runs[1].strength, runs[1].steps), (6.0, Some(0.5), 28));
    assert_eq!(runs[2].prompts.len(), 3, "where an auto text ends up is not known yet");
    assert!(runs[2].prompts.iter().all(|prompt| prompt.contains("at dusk")));
    assert!(runs[2].negative.as_ref().unwrap().1.starts_with("rain, "));
    let unguided = flux_runs(&planned(&json!({"bg_model": "sdxl", "product_image": photo()})));
    assert!(unguided.iter().all(|run| run.negative.is_none()));
    assert!((unguided[0].guidance - 3.5).abs() < 1e-9, "SDXL's 7.5 is not FLUX's");
}

#[test]
fn nine_phrases_each_with_the_quality_and_the_users_words() {
    let all: HashSet<String> = [CompositionMode::Overlay, CompositionMode::Blend, CompositionMode::Behind]
        .into_iter()
        .flat_map(|mode| {
            [Band::Top, Band::Center, Band::Bottom].map(|band| prompts::composition(mode, band, None))
        })
        .collect();
    assert_eq!(all.len(), 9);
    let suffix = |prompt: &str| prompt.rsplit(", ").next().unwrap().to_owned();
    assert_eq!(
        all.iter().map(|prompt| suffix(prompt)).collect::<HashSet<_>>().len(),
        1,
        "one quality for all"
    );
    let worded = prompts::composition(CompositionMode::Blend, Band::Top, Some("  in fog "));
    assert!(worded.contains(", in fog, "), "{worded}");
    assert_eq!(
        prompts::composition(CompositionMode::Blend, Band::Top, Some(" ")),
        prompts::composition(CompositionMode::Blend, Band::Top, None)
    );
}

#[test]
fn each_draw_has_a_seed_of_its_own_and_all_64_bits_count() {
    let of = |job: u64| SubStep::ALL.map(|sub_step| seed_of(job, sub_step));
    let distinct: HashSet<u64> = of(7).into_iter().collect();
    assert_eq!(distinct.len(), SubStep::ALL.len());
    assert!(of(7).iter().all(|seed| u32::try_from(*seed).is_ok()), "torch's generator reads 32 bits");
    assert_eq!(seed_of(7, SubStep::BackgroundGeneration), 7, "as diffusers and `marquee generate`");
    for (low, high) in of(7).into_iter().zip(of(7 | 1 << 32)) {
        assert_ne!(low, high);
    }
    // The same on every machine and in every version: a seed is a promise.
    assert_eq!(of(7)[6], seed_of(7, SubStep::Composition));
    assert_eq!(seed_of(7, SubStep::Composition), PROMISED);
}

const PROMISED: u64 = 3_809_749_239;

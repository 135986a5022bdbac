//! Step 2: the phrase, set, shaped into an object, cut out.

use image::{DynamicImage, RgbaImage};

use crate::engine::EngineError;
use crate::engine::real::cut_out;
use crate::engine::real::journey::Journey;
use crate::engine::real::sdxl::{self, SdxlRun};
use crate::engine::real::seeds::seed_of;
use crate::engine::real::studio::Studio;
use crate::imaging::edges::edge_map;
use crate::imaging::fonts::FontLibrary;
use crate::imaging::typeset::{Typeset, TypesetError, typeset};
use crate::input::Plan;
use crate::input::plan::TextPlan;
use crate::models::sdxl::pipeline::Settings;
use crate::progress::SubStep;

/// Classifier-free guidance of the text (the request has no field for it).
const GUIDANCE: f64 = 5.0;

/// The phrase in its font, with the edges that steer SDXL.
pub type Canvas = (Typeset, DynamicImage);

/// Sets the phrase: 20 ms of a core, which step 1 has to spare.
///
/// # Errors
/// No font for it, too long.
pub fn canvas(fonts: &FontLibrary, plan: &Plan, text: &TextPlan) -> Result<Canvas, TypesetError> {
    let set = typeset(fonts, &text.content, text.font_name.as_deref(), plan.width, plan.height)?;
    let edges = DynamicImage::ImageLuma8(edge_map(&set.canvas));
    Ok((set, edges))
}

/// The phrase as an object on a transparent ground.
///
/// # Errors
/// [`EngineError`].
pub fn text(
    studio: &mut Studio<'_>,
    journey: &mut Journey<'_>,
    text: &TextPlan,
) -> Result<RgbaImage, EngineError> {
    let plan = studio.plan;
    let (set, edges) = journey.sub_step(SubStep::TextCanvas, |_, _| studio.canvas())?;
    journey.warnings.extend(set.warnings.iter().cloned());
    let picture = journey.sub_step(SubStep::TextGeneration, |journey, progress| {
        let scale = text.controlnet_conditioning_scale;
        let control = if scale > 0.0 { Some((studio.nets.controlnet()?, &edges, scale)) } else { None };
        let run = SdxlRun {
            sub_step: SubStep::TextGeneration,
            prompt: &text.prompt,
            negative: &text.negative_prompt,
            guidance: GUIDANCE,
            settings: Settings {
                width: plan.width,
                height: plan.height,
                steps: text.steps,
                seed: seed_of(plan.seed, SubStep::TextGeneration),
            },
            control,
        };
        sdxl::paint(journey, studio.nets.sdxl()?, &run, progress)
    })?;
    journey.sub_step(SubStep::TextSegmentation, |journey, _| {
        let net = studio.nets.birefnet()?;
        let mask = cut_out::segment(journey, net, &picture, SubStep::TextSegmentation)?;
        let (asset, warning) = cut_out::text(&picture, &mask, &set.canvas)?;
        journey.warnings.extend(warning);
        Ok(asset)
    })
}

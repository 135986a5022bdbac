//! Step 1: the scene, and the product in it.

use image::RgbImage;

use super::injection;
use crate::engine::EngineError;
use crate::engine::real::journey::Journey;
use crate::engine::real::sdxl::{self, SdxlRun};
use crate::engine::real::seeds::seed_of;
use crate::engine::real::studio::Studio;
use crate::engine::real::{fault::Fault, flux};
use crate::input::plan::{BackgroundModel, BackgroundPlan};
use crate::models::sdxl::pipeline::Settings;
use crate::progress::SubStep;

const SUB_STEP: SubStep = SubStep::BackgroundGeneration;

/// Paints `background`, and merges its product into it.
///
/// # Errors
/// [`EngineError`].
pub fn background(
    studio: &mut Studio<'_>,
    journey: &mut Journey<'_>,
    background: &BackgroundPlan,
) -> Result<RgbImage, EngineError> {
    let canvas = (studio.plan.width, studio.plan.height);
    let product = match &background.product {
        Some(product) => Some(injection::cut_out(studio, journey, product, canvas)?),
        None => None,
    };
    let scene = journey.sub_step(SUB_STEP, |journey, progress| match background.model {
        BackgroundModel::Flux => {
            let nothing = || Fault::Defect("a FLUX background has no FLUX run".to_owned());
            let run = studio.flux_run(journey, SUB_STEP)?.ok_or_else(nothing)?;
            studio.set_phrase()?;
            flux::paint(journey, studio.nets.flux()?, studio.plan, &run, 0, None, progress)
        }
        BackgroundModel::Sdxl => {
            studio.set_phrase()?;
            let run = SdxlRun {
                sub_step: SUB_STEP,
                prompt: &background.prompt,
                negative: &background.negative_prompt,
                guidance: background.guidance_scale,
                settings: Settings {
                    width: canvas.0,
                    height: canvas.1,
                    steps: background.steps,
                    seed: seed_of(studio.plan.seed, SUB_STEP),
                },
                control: None,
            };
            sdxl::paint(journey, studio.nets.sdxl()?, &run, progress)
        }
    })?;
    match product {
        Some(product) => injection::inject(studio, journey, &scene, &product),
        None => Ok(scene),
    }
}

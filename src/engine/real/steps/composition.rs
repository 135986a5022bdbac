//! Step 3: text and scene in one picture, or at least over one another.

use image::{GrayImage, RgbImage, RgbaImage, imageops};

use super::injection::sizes;
use crate::engine::EngineError;
use crate::engine::real::flux::{self, Draft};
use crate::engine::real::journey::Journey;
use crate::engine::real::studio::Studio;
use crate::engine::real::watch::Progress;
use crate::engine::real::{cut_out, fault::Fault};
use crate::imaging::composite::{over, select};
use crate::imaging::masks::{self, alpha, inpaint_mask};
use crate::imaging::placement::{Band, reposition_text};
use crate::input::plan::{CompositionMode, CompositionPlan};
use crate::progress::SubStep;

const SUB_STEP: SubStep = SubStep::Composition;

/// Step 3's picture.
pub struct Composed {
    /// Merged, or the plain composite.
    pub image: RgbImage,
    /// Why the worker must be replaced although there is a picture.
    pub lost: Option<String>,
}

/// Merges `text` into `background`. If the merge fails for any reason but a stop, the plain composite is returned, with the
/// failure among the warnings.
///
/// # Errors
/// [`EngineError::Stopped`].
pub fn compose(
    studio: &mut Studio<'_>,
    journey: &mut Journey<'_>,
    plan: &CompositionPlan,
    background: &RgbImage,
    text: &RgbaImage,
) -> Result<Composed, EngineError> {
    journey.sub_step(SUB_STEP, |journey, progress| {
        let text = reposition_text(text, background, plan.position);
        let mut draft = background.clone();
        let unit = background.width().min(background.height()) as f32 / 1024.0;
        let margin = (masks::SOFT_MARGIN * unit) as u32;
        // Some 10 and 20 ms of a core, while the device has nothing to do.
        let (mask, ()) = rayon::join(
            || inpaint_mask(&alpha(&text), margin, None),
            || over(&mut draft, &text, (0, 0)),
        );
        let fault = match merge(studio, journey, plan, background, (&text, mask), &mut draft, progress) {
            Ok(image) => return Ok(Composed { image, lost: None }),
            Err(fault) => fault,
        };
        // A stop surfaces as whatever it interrupted.
        journey.check()?;
        let error = fault.at(SUB_STEP, journey.device());
        tracing::error!(%error, "step 3 failed; the plain composite is delivered");
        journey.warnings.push(format!(
            "step 3 failed, and the final image is the text laid over the background without being merged ({error})"
        ));
        let lost = matches!(error, EngineError::DeviceLost { .. }).then(|| error.to_string());
        Ok(Composed { image: draft, lost })
    })
}

/// The merge proper. `mask` is where it may repaint, `draft` the plain composite; where a foreground is found, it is put in
/// front of the text in both.
fn merge(
    studio: &mut Studio<'_>,
    journey: &mut Journey<'_>,
    plan: &CompositionPlan,
    background: &RgbImage,
    (text, mut mask): (&RgbaImage, GrayImage),
    draft: &mut RgbImage,
    progress: &Progress<'_>,
) -> Result<RgbImage, Fault> {
    let mut foreground = None;
    if plan.mode == CompositionMode::Behind {
        let mask = cut_out::segment(journey, studio.nets.birefnet()?, background, SUB_STEP)?;
        let (standing, warning) = masks::standing_before(mask, text);
        journey.warnings.extend(warning);
        foreground = standing;
    }
    if let Some(foreground) = &foreground {
        masks::subtract(&mut mask, foreground);
        let mut visible = foreground.clone();
        imageops::invert(&mut visible);
        *draft = select(background, draft, &visible).ok_or_else(|| sizes("composition"))?;
    }
    let Some(run) = studio.flux_run(journey, SUB_STEP)? else { return Ok(draft.clone()) };
    let band = Band::of(plan.position, text);
    let prompt = Band::candidates(plan.position).iter().position(|candidate| *candidate == band);
    let draft = Draft { image: draft, mask: &mask };
    let nets = studio.nets.flux()?;
    let painted = flux::paint(journey, nets, studio.plan, &run, prompt.unwrap_or(0), Some(&draft), progress)?;
    // What is not the text's comes back from the autoencoder a little duller than it went in.
    select(background, &painted, &mask).ok_or_else(|| sizes("composition"))
}

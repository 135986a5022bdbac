//! Remarks on values that were sent and change nothing: one line a reason, naming the fields.
//!
//! Called by [`super::validate`] once a request is known to be right.

use super::fields as f;
use super::kinds::Field;
use super::plan::BackgroundModel;
use super::wire::Wire;
use crate::progress::Step;

/// Fields of the product, without effect if there is none.
static PRODUCT: &[&dyn Field] = &[
    &f::PRODUCT_SCALE,
    &f::PRODUCT_POSITION,
    &f::STRENGTH,
    &f::BG_COMPOSITION_PROMPT,
    &f::BG_COMPOSITION_NEGATIVE_PROMPT,
];
static STEP1: &[&dyn Field] = &[
    &f::PRODUCT_IMAGE,
    &f::BG_PROMPT,
    &f::BG_NEGATIVE_PROMPT,
    &f::BG_MODEL,
    &f::BG_STEPS,
    &f::BG_COMPOSITION_PROMPT,
    &f::BG_COMPOSITION_NEGATIVE_PROMPT,
    &f::PRODUCT_SCALE,
    &f::PRODUCT_POSITION,
    &f::STRENGTH,
    &f::GUIDANCE_SCALE,
];
static STEP2: &[&dyn Field] = &[
    &f::TEXT_PROMPT,
    &f::TEXT_NEGATIVE_PROMPT,
    &f::TEXT_STEPS,
    &f::CONTROLNET_CONDITIONING_SCALE,
    &f::FONT_NAME,
];
static STEP3: &[&dyn Field] = &[
    &f::COMPOSITION_MODE,
    &f::TEXT_POSITION,
    &f::COMPOSITION_PROMPT,
    &f::COMPOSITION_NEGATIVE_PROMPT,
    &f::COMPOSITION_STRENGTH,
    &f::COMPOSITION_STEPS,
    &f::COMPOSITION_GUIDANCE_SCALE,
];

/// Adds the remarks to `wire`.
pub fn note(wire: &mut Wire<'_>, start: Step, stop: Step, model: BackgroundModel, true_cfg_scale: f64) {
    for (step, fields) in [(Step::Background, STEP1), (Step::Text, STEP2), (Step::Composition, STEP3)] {
        if !(start..=stop).contains(&step) {
            remark(wire, fields, &format!("step {} does not run", step.number()));
        }
    }
    let product = start == Step::Background && wire.was_given(&f::PRODUCT_IMAGE);
    let flux =
        product || stop == Step::Composition || (start, model) == (Step::Background, BackgroundModel::Flux);
    if !flux {
        let reason = match start {
            Step::Background => "it is for flux, and bg_model is sdxl",
            _ => "no step that runs uses flux",
        };
        remark(wire, &[&f::TRUE_CFG_SCALE], reason);
    } else if true_cfg_scale <= 1.0 {
        let mut negative: Vec<&dyn Field> = Vec::new();
        if (start, model) == (Step::Background, BackgroundModel::Flux) {
            negative.push(&f::BG_NEGATIVE_PROMPT);
        }
        if product {
            negative.push(&f::BG_COMPOSITION_NEGATIVE_PROMPT);
        }
        if stop == Step::Composition {
            negative.push(&f::COMPOSITION_NEGATIVE_PROMPT);
        }
        remark(wire, &negative, "flux uses it only with true_cfg_scale above 1");
    }
    if start == Step::Background {
        if !product {
            remark(wire, PRODUCT, "there is no product_image");
        }
        if stop == Step::Background
            && wire.was_given(&f::TEXT_CONTENT)
            && !wire.parameters["text_content"].is_null()
        {
            remark(wire, &[&f::TEXT_CONTENT], "stop_step is 1");
        }
        remark(wire, &[&f::STEP1_IMAGE], "start_step is 1");
    }
    if start < Step::Composition {
        remark(wire, &[&f::STEP2_IMAGE], &format!("start_step is {}", start.number()));
    }
}

fn remark(wire: &mut Wire<'_>, fields: &[&dyn Field], reason: &str) {
    let names: Vec<_> = fields.iter().filter(|f| wire.was_given(**f)).map(|f| f.head().name).collect();
    if !names.is_empty() {
        wire.warnings.push(format!("without effect, because {reason}: {}", names.join(", ")));
    }
}

//! Every FLUX run of a job with its prompts, known before anything is loaded. Pure.
//!
//! All prompts are read while the text encoders are on the device, so a run whose prompt depends on a result that does not
//! exist yet (where an `auto` text ends up) names its candidates.

use super::seeds::seed_of;
use super::steps::prompts;
use crate::imaging::placement::Band;
use crate::input::Plan;
use crate::input::plan::{BackgroundModel, INJECTION_STEPS};
use crate::models::flux::pipeline::Settings;
use crate::progress::SubStep;

/// FLUX's own default, for injections into a background whose `guidance_scale` is SDXL's.
const FLUX_GUIDANCE: f64 = 3.5;

/// One denoising with FLUX.
#[derive(Debug, Clone, PartialEq)]
pub struct FluxRun {
    /// What it is for.
    pub sub_step: SubStep,
    /// The prompt, or one for each outcome.
    pub prompts: Vec<String>,
    /// What to avoid, and the scale of true classifier-free guidance; `None` where it does not act.
    pub negative: Option<(f64, String)>,
    /// Distilled guidance.
    pub guidance: f64,
    /// Length of the schedule.
    pub steps: u32,
    /// Below 1 the last steps of the schedule run; `None` starts from noise.
    pub strength: Option<f64>,
    /// Of its draws.
    pub seed: u64,
}

impl FluxRun {
    /// Every text that the encoders read for it, what to avoid last.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.prompts.iter().chain(self.negative.as_ref().map(|(_, text)| text)).map(String::as_str)
    }

    /// For the sampler.
    pub fn settings(&self, plan: &Plan) -> Settings {
        Settings { width: plan.width, height: plan.height, steps: self.steps, seed: self.seed }
    }
}

/// All of a job's, in order. A run whose strength leaves no step is not among them: its picture stays as it is.
pub fn flux_runs(plan: &Plan) -> Vec<FluxRun> {
    let mut runs = Vec::new();
    let guided = |scale: f64, words: String| (scale > 1.0).then_some((scale, words));
    let seed = |sub_step| seed_of(plan.seed, sub_step);
    if let Some(background) = &plan.background {
        let flux = background.model == BackgroundModel::Flux;
        if flux {
            runs.push(FluxRun {
                sub_step: SubStep::BackgroundGeneration,
                prompts: vec![background.prompt.clone()],
                negative: guided(background.true_cfg_scale, background.negative_prompt.clone()),
                guidance: background.guidance_scale,
                steps: background.steps,
                strength: None,
                seed: seed(SubStep::BackgroundGeneration),
            });
        }
        if let Some(product) = background.product.as_ref().filter(|p| acts(INJECTION_STEPS, p.strength)) {
            runs.push(FluxRun {
                sub_step: SubStep::FeatureInjection,
                prompts: vec![product.prompt.clone()],
                negative: guided(background.true_cfg_scale, product.negative_prompt.clone()),
                guidance: if flux { background.guidance_scale } else { FLUX_GUIDANCE },
                steps: INJECTION_STEPS,
                strength: Some(product.strength),
                seed: seed(SubStep::FeatureInjection),
            });
        }
    }
    if let Some(composition) = plan.composition.as_ref().filter(|c| acts(c.steps, c.strength)) {
        let user = composition.prompt.as_deref();
        let candidates = Band::candidates(composition.position).iter();
        runs.push(FluxRun {
            sub_step: SubStep::Composition,
            prompts: candidates.map(|band| prompts::composition(composition.mode, *band, user)).collect(),
            negative: guided(
                composition.true_cfg_scale,
                prompts::composition_negative(composition.negative_prompt.as_deref()),
            ),
            guidance: composition.guidance_scale,
            steps: composition.steps,
            strength: Some(composition.strength),
            seed: seed(SubStep::Composition),
        });
    }
    runs
}

/// Whether `strength` leaves one of `steps` steps (diffusers' arithmetic: a strength of 0 leaves none).
fn acts(steps: u32, strength: f64) -> bool {
    let skipped = f64::from(steps) - (f64::from(steps) * strength).min(f64::from(steps));
    (skipped.max(0.0) as u32) < steps
}

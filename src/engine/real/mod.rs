//! The engine with nets. So far it paints backgrounds with FLUX; a plan that needs more is refused before any net is
//! loaded.
//!
//! Loads the checkpoint at its first job and keeps it. Must not know jobs or networks. Called through [`Engine`].

mod watch;

use std::time::Instant;

use candle_core::{DType, Device};
use image::DynamicImage;

use super::{Artifacts, Ctx, Engine, EngineError};
use crate::config::FluxSource;
use crate::input::Plan;
use crate::input::plan::{BackgroundModel, BackgroundPlan};
use crate::models::checkpoint::{Caches, FluxCheckpoint};
use crate::models::flux::pipeline::{Pipeline, PipelineError, Request, Settings, Start};
use crate::progress::SubStep;
use watch::StepWatch;

/// T5 tokens of FLUX.1-dev; the distilled schnell was trained on half as many.
const DEV_WORDS: usize = 512;
const SCHNELL_WORDS: usize = 256;

/// Paints with nets.
pub struct RealEngine {
    flux: FluxSource,
    caches: Caches,
    device: Device,
    dtype: DType,
    pipeline: Option<Pipeline>,
}

impl RealEngine {
    /// Nets come from `flux`, looked up in `caches` where it is a Hub id, and run as `dtype` on `device`.
    pub fn new(flux: FluxSource, caches: Caches, device: Device, dtype: DType) -> Self {
        Self { flux, caches, device, dtype, pipeline: None }
    }

    fn pipeline(&mut self) -> Result<&Pipeline, EngineError> {
        if self.pipeline.is_none() {
            let checkpoint = FluxCheckpoint::open(&self.flux.model, &self.flux.replacements(), &self.caches)
                .map_err(|error| EngineError::Unavailable(error.to_string()))?;
            let loaded = Pipeline::load(&checkpoint, self.dtype, &self.device).map_err(failed)?;
            self.pipeline = Some(loaded);
        }
        self.pipeline.as_ref().ok_or_else(|| EngineError::Unavailable("FLUX is not loaded".to_owned()))
    }

    fn paint(
        &mut self,
        plan: &Plan,
        background: &BackgroundPlan,
        ctx: &Ctx,
    ) -> Result<DynamicImage, EngineError> {
        let pipeline = self.pipeline()?;
        ctx.check()?;
        let request = Request {
            prompt: &background.prompt,
            negative_prompt: Some(&background.negative_prompt),
            settings: Settings {
                width: plan.width,
                height: plan.height,
                steps: background.steps,
                seed: plan.seed,
            },
            guidance: background.guidance_scale,
            true_cfg_scale: background.true_cfg_scale,
            words: if pipeline.has_guidance() { DEV_WORDS } else { SCHNELL_WORDS },
            start: Start::Noise,
            padding_mask_crop: None,
        };
        let mut watch = StepWatch::new(ctx, SubStep::BackgroundGeneration);
        let painted = pipeline.generate(&request, &mut watch);
        // A stop surfaces as an error of the pipeline; the reason is the job's.
        ctx.check()?;
        painted.map(DynamicImage::ImageRgb8).map_err(failed)
    }
}

impl Engine for RealEngine {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        let background = background_only(plan)?;
        let begun = Instant::now();
        let image = self.paint(plan, background, ctx)?;
        Ok(Artifacts {
            step1: Some(image.clone()),
            final_image: Some(image),
            timings: vec![(SubStep::BackgroundGeneration, begun.elapsed())],
            ..Artifacts::default()
        })
    }
}

/// The background of a plan that asks for nothing else.
fn background_only(plan: &Plan) -> Result<&BackgroundPlan, EngineError> {
    let lacking = match &plan.background {
        _ if plan.text.is_some() || plan.composition.is_some() => "text and composition (steps 2 and 3)",
        Some(background) if background.product.is_some() => "product injection",
        Some(background) if background.model == BackgroundModel::Sdxl => "SDXL backgrounds",
        Some(background) => return Ok(background),
        None => "a plan without a background",
    };
    Err(EngineError::Unavailable(format!(
        "this version's nets paint FLUX backgrounds only, not {lacking}; send \"stop_step\": 1, or \"test_mode\": true"
    )))
}

fn failed(error: PipelineError) -> EngineError {
    match error {
        PipelineError::Unfit(message) => EngineError::Unfit(message),
        other => EngineError::Step { sub_step: SubStep::BackgroundGeneration, message: other.to_string() },
    }
}

//! `test_mode`: every picture procedural, everything else real.
//!
//! [`DummyEngine`] runs the plan's sub-steps in order with the same progress calls, stop checks and artifacts as an engine
//! with nets; fonts, edge map, masks, placement and compositing are [`crate::imaging`]'s, shared with that engine. The same
//! plan gives the same bytes: nothing is kept between runs but the fonts, and `auto_unload` is never read. It must not know
//! jobs or networks. The worker calls it through [`Engine`].

mod cutout;
mod foil;
mod merge;
mod noise;
mod pacing;
mod scene;

use std::sync::Arc;
use std::time::Duration;

use image::{RgbImage, RgbaImage};

use self::cutout::Product;
use self::foil::Material;
use self::pacing::Pacer;
use super::{Artifacts, Ctx, Engine, EngineError, show, supplied};
use crate::imaging::edges::edge_map;
use crate::imaging::fonts::FontLibrary;
use crate::imaging::placement::reposition_text;
use crate::imaging::typeset::typeset;
use crate::input::Plan;
use crate::input::plan::{BackgroundPlan, CompositionPlan, TextPlan};
use crate::progress::{Step, SubStep};

/// Makes pictures without nets.
pub struct DummyEngine {
    fonts: Arc<FontLibrary>,
    step: Duration,
}

impl DummyEngine {
    /// An engine that takes at least `step` for each denoise step (zero: as fast as it goes).
    pub fn new(fonts: Arc<FontLibrary>, step: Duration) -> Self {
        Self { fonts, step }
    }

    fn background(
        plan: &Plan,
        background: &BackgroundPlan,
        run: &mut Pacer,
        warnings: &mut Vec<String>,
    ) -> Result<RgbImage, EngineError> {
        let canvas = (plan.width, plan.height);
        let mut product = None;
        if let Some(wanted) = &background.product {
            product = Some(run.once(SubStep::Segmentation, || {
                let product = Product::cut_out(wanted, canvas);
                warnings.extend(product.warning.clone());
                Ok(product)
            })?);
        }
        let scene = scene::Scene::new(&background.prompt, plan.seed, canvas);
        let mut image = RgbImage::new(plan.width, plan.height);
        // Rows instead of denoise steps: a stop is noticed within one, as in the real run.
        run.denoise(SubStep::BackgroundGeneration, |done, total| {
            let row = |unit: u32| (u64::from(plan.height) * u64::from(unit) / u64::from(total)) as u32;
            scene.paint_rows(row(done)..row(done + 1), &mut image);
            Ok(())
        })?;
        if let Some(product) = product {
            run.denoise(SubStep::FeatureInjection, |done, _| {
                if done == 0 {
                    product.place(&mut image);
                }
                Ok(())
            })?;
        }
        Ok(image)
    }

    fn text(
        &self,
        plan: &Plan,
        text: &TextPlan,
        run: &mut Pacer,
        warnings: &mut Vec<String>,
    ) -> Result<RgbaImage, EngineError> {
        let (set, edges) = run.once(SubStep::TextCanvas, || {
            let set = typeset(&self.fonts, &text.content, text.font_name.as_deref(), plan.width, plan.height)
                .map_err(|error| EngineError::Unfit(error.to_string()))?;
            let edges = edge_map(&set.canvas);
            Ok((set, edges))
        })?;
        warnings.extend(set.warnings.iter().cloned());
        let mut object = None;
        run.denoise(SubStep::TextGeneration, |done, _| {
            if done == 0 {
                let material = Material::from_prompt(&text.prompt);
                object = Some(foil::render(&set, &edges, material, plan.seed));
            }
            Ok(())
        })?;
        // The ground is transparent from the start here; what a net would have to cut out is only reported.
        run.once(SubStep::TextSegmentation, || {
            object.ok_or_else(|| EngineError::Step {
                sub_step: SubStep::TextSegmentation,
                message: "text_generation ran without a step".to_owned(),
            })
        })
    }

    fn composition(
        plan: &Plan,
        composition: &CompositionPlan,
        background: &RgbImage,
        text: &RgbaImage,
        run: &mut Pacer,
        warnings: &mut Vec<String>,
    ) -> Result<RgbImage, EngineError> {
        let mut merged = None;
        run.denoise(SubStep::Composition, |done, _| {
            if done == 0 {
                let text = reposition_text(text, background, composition.position);
                let (image, warning) = merge::merge(background, &text, composition.mode);
                warnings.extend(warning);
                merged = Some(image);
            }
            Ok(())
        })?;
        merged.ok_or_else(|| EngineError::Step {
            sub_step: SubStep::Composition,
            message: format!("no denoise step was planned for seed {}", plan.seed),
        })
    }
}

impl Engine for DummyEngine {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        let mut artifacts = Artifacts::default();
        let mut run = Pacer::new(ctx, self.step, plan.sub_steps());
        let warnings = &mut artifacts.warnings;

        let background = match &plan.background {
            Some(background) => Some(Self::background(plan, background, &mut run, warnings)?),
            None => None,
        };
        show(ctx, Step::Background, background.as_ref());
        let text = match &plan.text {
            Some(text) => Some(self.text(plan, text, &mut run, warnings)?),
            None => None,
        };
        show(ctx, Step::Text, text.as_ref());
        let merged = match &plan.composition {
            Some(composition) => {
                let background =
                    supplied(background.as_ref().or(plan.step1_image.as_ref()), "step1_image", plan)?;
                let text = supplied(text.as_ref().or(plan.step2_image.as_ref()), "step2_image", plan)?;
                Some(Self::composition(plan, composition, background, text, &mut run, warnings)?)
            }
            None => None,
        };
        show(ctx, Step::Composition, merged.as_ref());

        artifacts.timings = run.into_timings();
        artifacts.step1 = background.map(Into::into);
        artifacts.step2 = text.map(Into::into);
        artifacts.final_image =
            merged.map(Into::into).or_else(|| artifacts.step2.clone()).or_else(|| artifacts.step1.clone());
        Ok(artifacts)
    }
}

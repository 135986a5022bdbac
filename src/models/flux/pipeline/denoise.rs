//! The loop: predict, step, blend.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

use super::prepare::Prepared;
use super::{PipelineError, Prompt};
use crate::models::finite::finite;
use crate::models::flux::{BlockId, Conditioner, Modulation, Transformer};

/// Sees the run go by.
pub trait Watch {
    /// Before each block of each step; an error ends the run.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn block(&mut self, _: BlockId) -> candle_core::Result<()> {
        Ok(())
    }

    /// After each of `total` steps, and once before the first with `done` 0; breaking ends the run. `latents` are packed
    /// and as the next step will read them.
    fn step(&mut self, done: u32, total: u32, latents: &Tensor) -> ControlFlow<()>;
}

/// Watches nothing.
impl Watch for () {
    fn step(&mut self, _: u32, _: u32, _: &Tensor) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What pulls the picture towards the prompt.
pub struct Guidance<'a> {
    /// Distilled guidance, an input of the model; models without it ignore it.
    pub scale: f32,
    /// The prompt.
    pub prompt: &'a Prompt,
    /// True classifier-free guidance: scale (acts above 1) and negative prompt; a second prediction a step.
    pub negative: Option<(f64, &'a Prompt)>,
}

/// A prompt with its tables for all steps of a run: what is left of text encoders and conditioner, which may then leave.
#[derive(Debug, Clone)]
pub struct Conditioning {
    embeds: Tensor,
    modulation: Modulation,
}

impl Conditioning {
    /// Computes the modulation of all `timesteps` for `prompt` at the distilled guidance `scale`.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn new(
        conditioner: &Conditioner,
        prompt: &Prompt,
        scale: f32,
        timesteps: &[f32],
    ) -> Result<Self, PipelineError> {
        let modulation = conditioner.precompute(timesteps, scale, &prompt.pooled)?;
        Ok(Self { embeds: prompt.embeds.clone(), modulation })
    }
}

/// A transformer with the tables of its conditioner, which is no longer needed.
pub struct Denoiser<'a> {
    transformer: &'a Transformer,
    positive: Conditioning,
    negative: Option<(f64, Conditioning)>,
}

impl<'a> Denoiser<'a> {
    /// Computes the modulation of all `timesteps` for the prompts.
    ///
    /// # Errors
    /// As [`Conditioning::new`].
    pub fn new(
        transformer: &'a Transformer,
        conditioner: &Conditioner,
        guidance: &Guidance<'_>,
        timesteps: &[f32],
    ) -> Result<Self, PipelineError> {
        let conditioning = |prompt| Conditioning::new(conditioner, prompt, guidance.scale, timesteps);
        let negative = match guidance.negative {
            Some((scale, prompt)) if scale > 1.0 => Some((scale, conditioning(prompt)?)),
            _ => None,
        };
        Ok(Self::conditioned(transformer, conditioning(guidance.prompt)?, negative))
    }

    /// From tables that were computed earlier. `negative`: scale of true classifier-free guidance, and what to avoid.
    pub fn conditioned(
        transformer: &'a Transformer,
        positive: Conditioning,
        negative: Option<(f64, Conditioning)>,
    ) -> Self {
        Self { transformer, positive, negative }
    }
}

/// Runs all steps of `prepared` and returns the packed latents of the picture.
///
/// # Errors
/// [`PipelineError::Stopped`] if the watcher broke; [`PipelineError::NotNumbers`]; shapes that do not match; no room on the
/// device.
pub fn denoise(
    denoiser: &Denoiser<'_>,
    prepared: &Prepared,
    watch: &mut dyn Watch,
) -> Result<Tensor, PipelineError> {
    let transformer = denoiser.transformer;
    let mut latents = prepared.latents.clone();
    let expected = transformer.config().in_channels;
    if latents.dim(2)? != expected {
        return Err(PipelineError::Unfit(format!(
            "the transformer reads {expected} channels a token, the VAE gives {}: FLUX.1-Fill and other variants with \
             extra inputs are not text-to-image models",
            latents.dim(2)?
        )));
    }
    let rope = |text: &Tensor| {
        transformer.rope(text.dim(1)?, prepared.rows, prepared.columns, prepared.latents.device())
    };
    let positive_rope = rope(&denoiser.positive.embeds)?;
    let negative_rope = denoiser.negative.as_ref().map(|(_, away)| rope(&away.embeds)).transpose()?;
    let steps = prepared.schedule.timesteps.len();
    let total = (steps - prepared.start) as u32;
    let stopped = |done: u32| PipelineError::Stopped { step: done + 1, steps: total };
    if watch.step(0, total, &latents).is_break() {
        return Err(stopped(0));
    }
    for (row, index) in (prepared.start..steps).enumerate() {
        let mut predict = |towards: &Conditioning, rope| {
            let Conditioning { embeds, modulation } = towards;
            transformer.forward(&latents, embeds, modulation.step(row), rope, &mut |block| watch.block(block))
        };
        let mut velocity = predict(&denoiser.positive, &positive_rope)?;
        if let (Some((scale, away)), Some(rope)) = (&denoiser.negative, &negative_rope) {
            let away = predict(away, rope)?;
            let change = (&velocity - &away)?;
            // A Python number multiplies in f32 whatever the tensor's dtype.
            let change = (change.to_dtype(DType::F32)? * *scale)?.to_dtype(away.dtype())?;
            velocity = (away + change)?;
        }
        latents = prepared.schedule.step(index, &latents, &velocity)?;
        if let Some(blend) = &prepared.blend {
            let kept = if index + 1 < steps {
                prepared.schedule.add_noise(index + 1, &blend.image, &blend.noise)?
            } else {
                blend.image.clone()
            };
            latents = ((1.0 - &blend.mask)? * kept)?.add(&(&blend.mask * &latents)?)?;
        }
        let done = row as u32 + 1;
        if watch.step(done, total, &latents).is_break() && done < total {
            return Err(stopped(done));
        }
    }
    finite("FLUX", latents)
}

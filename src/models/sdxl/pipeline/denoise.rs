//! The loop: predict with and without the prompt in one batch, pull, step.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use image::DynamicImage;

use super::{Framing, PipelineError, Prepared, Prompt};
use crate::models::finite::finite;
use crate::models::image_processor::control_to_tensor;
use crate::models::sdxl::{Conditioning, ControlNet, Hint, Residuals, Unet};

/// Sees the run go by.
pub trait Watch {
    /// After each of `total` steps, and once before the first with `done` 0; breaking ends the run. `latents` are as the
    /// next step will read them.
    fn step(&mut self, done: u32, total: u32, latents: &Tensor) -> ControlFlow<()>;
}

/// Watches nothing.
impl Watch for () {
    fn step(&mut self, _: u32, _: u32, _: &Tensor) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What pulls the picture towards the prompt.
#[derive(Debug, Clone, Copy)]
pub struct Guidance<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// Scale and negative prompt of classifier-free guidance, which acts above 1 and doubles the work of a step.
    pub negative: Option<(f64, &'a Prompt)>,
    /// Told for both prompts.
    pub framing: Framing,
}

/// What steers the picture's shapes.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    /// Edges, bright on black, for a canny ControlNet. Of any size; brought to the picture's.
    pub image: &'a DynamicImage,
    /// Weight of the ControlNet's residuals; diffusers' default is 1, 0 switches it off.
    pub scale: f64,
    /// Acts from this part of the schedule, 0 to 1,
    pub start: f64,
    /// to this one.
    pub end: f64,
}

impl Control<'_> {
    /// Its weight in step `index` of `steps`: a step counts if it lies wholly between start and end.
    pub fn scale_at(&self, index: usize, steps: usize) -> f64 {
        let (from, to) = (index as f64 / steps as f64, (index + 1) as f64 / steps as f64);
        if from < self.start || to > self.end { 0.0 } else { self.scale }
    }

    fn check(&self) -> Result<(), PipelineError> {
        let (start, end) = (self.start, self.end);
        if !(0.0..=1.0).contains(&start)
            || !(0.0..=1.0).contains(&end)
            || start >= end
            || !self.scale.is_finite()
        {
            return Err(PipelineError::Unfit(format!(
                "ControlNet from {start} to {end} of the schedule at scale {}; expected 0 <= start < end <= 1 and a number",
                self.scale
            )));
        }
        Ok(())
    }
}

/// A ControlNet that has seen its picture.
struct Steering<'a> {
    net: &'a ControlNet,
    told: Conditioning,
    hint: Hint,
    control: Control<'a>,
}

/// The nets of a step with everything that is the same for all steps.
pub struct Denoiser<'a> {
    unet: &'a Unet,
    told: Conditioning,
    /// Scale of classifier-free guidance if it acts.
    guidance: Option<f64>,
    steering: Option<Steering<'a>>,
}

impl<'a> Denoiser<'a> {
    /// Embeds prompts, framing and the control picture.
    ///
    /// # Errors
    /// A control's range, shapes that do not match, no room on the device.
    pub fn new(
        unet: &'a Unet,
        guidance: &Guidance<'_>,
        control: Option<(&'a ControlNet, Control<'a>)>,
        prepared: &Prepared,
    ) -> Result<Self, PipelineError> {
        let (dtype, device) = (prepared.latents.dtype(), prepared.latents.device());
        let prompt = guidance.prompt;
        let (scale, text, pooled) = match guidance.negative {
            Some((scale, negative)) if scale > 1.0 => (
                Some(scale),
                Tensor::cat(&[&negative.embeds, &prompt.embeds], 0)?,
                Tensor::cat(&[&negative.pooled, &prompt.pooled], 0)?,
            ),
            _ => (None, prompt.embeds.clone(), prompt.pooled.clone()),
        };
        let (text, pooled) = (text.to_dtype(dtype)?, pooled.to_dtype(dtype)?);
        let ids = vec![guidance.framing.ids(); text.dim(0)?];
        let steering = match control {
            Some((net, control)) => {
                control.check()?;
                let picture = control_to_tensor(control.image, prepared.width, prepared.height, device)?;
                Some(Steering {
                    net,
                    told: net.condition(&text, &pooled, &ids)?,
                    hint: net.hint(&picture.to_dtype(dtype)?)?,
                    control,
                })
            }
            None => None,
        };
        Ok(Self { unet, told: unet.condition(&text, &pooled, &ids)?, guidance: scale, steering })
    }

    /// The noise in `latents` at step `index`.
    fn predict(&self, prepared: &Prepared, index: usize, latents: &Tensor) -> Result<Tensor, PipelineError> {
        let Some(&timestep) = prepared.schedule.timesteps.get(index) else {
            return Err(PipelineError::Unfit(format!("no step {index} in the schedule")));
        };
        let sample = match self.guidance {
            Some(_) => Tensor::cat(&[latents, latents], 0)?,
            None => latents.clone(),
        };
        let sample = prepared.schedule.scale_model_input(index, &sample)?;
        let residuals = self.residuals(&sample, timestep, index, prepared.schedule.timesteps.len())?;
        let noise = self.unet.forward(&sample, timestep, &self.told, residuals.as_ref())?;
        let Some(scale) = self.guidance else { return Ok(noise) };
        let (away, towards) = (noise.narrow(0, 0, 1)?, noise.narrow(0, 1, 1)?);
        let change = (towards - &away)?;
        // A Python number multiplies in f32 whatever the tensor's dtype.
        let change = (change.to_dtype(DType::F32)? * scale)?.to_dtype(away.dtype())?;
        Ok((away + change)?)
    }

    /// Nothing where the ControlNet's weight is 0: its residuals would be zeros.
    fn residuals(
        &self,
        sample: &Tensor,
        timestep: f32,
        index: usize,
        steps: usize,
    ) -> Result<Option<Residuals<'_>>, PipelineError> {
        let Some(steering) = &self.steering else { return Ok(None) };
        let scale = steering.control.scale_at(index, steps);
        if scale == 0.0 {
            return Ok(None);
        }
        Ok(Some(steering.net.forward(sample, timestep, &steering.told, &steering.hint, scale)?))
    }
}

/// Runs all steps and returns the latents of the picture.
///
/// # Errors
/// [`PipelineError::Stopped`] if the watcher broke; [`PipelineError::NotNumbers`]; shapes that do not match; no room on the
/// device.
pub fn denoise(
    denoiser: &Denoiser<'_>,
    prepared: &Prepared,
    watch: &mut dyn Watch,
) -> Result<Tensor, PipelineError> {
    let expected = denoiser.unet.config().trunk.in_channels;
    let mut latents = prepared.latents.clone();
    if latents.dim(1)? != expected {
        return Err(PipelineError::Unfit(format!(
            "the UNet reads {expected} channels, the VAE gives {}: inpainting variants are not text-to-image models",
            latents.dim(1)?
        )));
    }
    let total = prepared.schedule.timesteps.len() as u32;
    let stopped = |done: u32| PipelineError::Stopped { step: done + 1, steps: total };
    if watch.step(0, total, &latents).is_break() {
        return Err(stopped(0));
    }
    for index in 0..total {
        let noise = denoiser.predict(prepared, index as usize, &latents)?;
        latents = prepared.schedule.step(index as usize, &latents, &noise)?;
        let done = index + 1;
        if watch.step(done, total, &latents).is_break() && done < total {
            return Err(stopped(done));
        }
    }
    finite("SDXL", latents)
}

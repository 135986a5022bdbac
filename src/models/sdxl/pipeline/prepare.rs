//! From a request to the latents that denoising starts with.

use candle_core::{DType, Device, Tensor};

use super::PipelineError;
use crate::models::rng::Generator;
use crate::models::schedulers::{EulerDiscrete, EulerSchedule};
use crate::models::sdxl::TIME_IDS;
use crate::models::vae::VaeConfig;

/// What every picture needs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Pixels; a multiple of 8.
    pub width: u32,
    /// Pixels; a multiple of 8.
    pub height: u32,
    /// Length of the schedule.
    pub steps: u32,
    /// Of all draws.
    pub seed: u64,
}

/// What the nets are told of the photograph that the picture pretends to be cut from; SDXL was trained on such triples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Height and width before the cut, in pixels.
    pub original: (u32, u32),
    /// The cut's top and left edge.
    pub crop: (u32, u32),
    /// Height and width after it.
    pub target: (u32, u32),
}

impl Framing {
    /// A picture of `width` x `height` pixels that nobody cut: diffusers' default.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { original: (height, width), crop: (0, 0), target: (height, width) }
    }

    /// As the nets read them.
    pub fn ids(&self) -> [f32; TIME_IDS] {
        let Self { original, crop, target } = self;
        [original.0, original.1, crop.0, crop.1, target.0, target.1].map(|id| id as f32)
    }
}

/// Everything that denoising needs beside nets and prompts.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// (1, channels, height / 8, width / 8), at the first step's noise level.
    pub latents: Tensor,
    /// All sigmas.
    pub schedule: EulerSchedule,
    /// Output width.
    pub width: u32,
    /// Output height.
    pub height: u32,
}

/// Draws. `dtype` is that of the UNet, in which diffusers draws.
///
/// # Errors
/// Sides that are no multiple of the VAE's shrinkage, steps out of range, no room on the device.
pub fn prepare(
    vae: &VaeConfig,
    scheduler: &EulerDiscrete,
    settings: &Settings,
    dtype: DType,
    device: &Device,
) -> Result<Prepared, PipelineError> {
    let Settings { width, height, steps, seed } = *settings;
    let shrink = vae.shrink() as u32;
    if width == 0 || height == 0 || width % shrink != 0 || height % shrink != 0 {
        return Err(PipelineError::Unfit(format!(
            "a picture of {width} x {height} pixels; expected multiples of {shrink}"
        )));
    }
    let schedule = scheduler.schedule(steps as usize)?;
    let shape = (1, vae.latent_channels, (height / shrink) as usize, (width / shrink) as usize);
    let noise = Generator::new(seed).randn(shape, dtype, device)?;
    Ok(Prepared { latents: schedule.start(&noise)?, schedule, width, height })
}

//! From a request to the latents that denoising starts with, drawing in diffusers' order: the encoded picture's sample,
//! then the noise.

use candle_core::{DType, Device, Tensor};
use image::DynamicImage;

use super::latents::pack;
use super::{Crop, PipelineError};
use crate::models::image_processor::{mask_to_tensor, picture_to_tensor};
use crate::models::rng::Generator;
use crate::models::schedulers::{FlowMatch, FlowSchedule};
use crate::models::vae::{Vae, VaeConfig};

/// What every mode needs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Pixels; rounded down to a multiple of 16 as diffusers does.
    pub width: u32,
    /// Pixels, likewise.
    pub height: u32,
    /// Length of the schedule; a strength below 1 runs fewer.
    pub steps: u32,
    /// Of all draws.
    pub seed: u64,
}

/// What denoising starts from.
pub enum Start<'a> {
    /// Noise alone.
    Noise,
    /// A picture under noise.
    Image {
        /// Of any size; brought to the request's.
        image: &'a DynamicImage,
        /// 0..=1: how much of the schedule runs.
        strength: f64,
    },
    /// A picture under noise, put back after each step where the mask is dark.
    Inpaint {
        /// Of any size.
        image: &'a DynamicImage,
        /// Bright where the picture is painted anew.
        mask: &'a DynamicImage,
        /// 0..=1.
        strength: f64,
    },
}

/// Everything that denoising needs beside nets and prompts.
pub struct Prepared {
    /// (1, tokens, channels).
    pub latents: Tensor,
    /// All sigmas.
    pub schedule: FlowSchedule,
    /// First step that runs.
    pub start: usize,
    /// Packed rows.
    pub rows: usize,
    /// Packed columns.
    pub columns: usize,
    /// Output width.
    pub width: u32,
    /// Output height.
    pub height: u32,
    pub(super) blend: Option<Blend>,
}

/// What is put back after each step; packed like the latents.
pub(super) struct Blend {
    pub(super) image: Tensor,
    pub(super) noise: Tensor,
    /// 1 where the latents stay.
    pub(super) mask: Tensor,
}

impl Prepared {
    /// The timesteps that run.
    pub fn timesteps(&self) -> &[f32] {
        self.schedule.timesteps.get(self.start..).unwrap_or_default()
    }
}

/// A picture's size in packed latents, and in the pixels that they stand for.
struct Grid {
    rows: usize,
    columns: usize,
    width: u32,
    height: u32,
    /// Of the latents, unpacked.
    shape: (usize, usize, usize, usize),
}

impl Grid {
    fn new(vae: &VaeConfig, settings: &Settings) -> Result<Self, PipelineError> {
        let cell = 2 * vae.shrink() as u32;
        let (columns, rows) = ((settings.width / cell) as usize, (settings.height / cell) as usize);
        if rows == 0 || columns == 0 {
            return Err(PipelineError::Unfit(format!(
                "a picture of {} x {} pixels; expected at least {cell} x {cell}",
                settings.width, settings.height
            )));
        }
        Ok(Self {
            rows,
            columns,
            width: columns as u32 * cell,
            height: rows as u32 * cell,
            shape: (1, vae.latent_channels, 2 * rows, 2 * columns),
        })
    }

    fn schedule(&self, scheduler: &FlowMatch, settings: &Settings) -> Result<FlowSchedule, PipelineError> {
        Ok(scheduler.schedule(settings.steps as usize, self.rows * self.columns)?)
    }

    fn prepared(&self, latents: Tensor, schedule: FlowSchedule, start: usize) -> Prepared {
        let Self { rows, columns, width, height, .. } = *self;
        Prepared { latents, schedule, start, rows, columns, width, height, blend: None }
    }
}

/// The timesteps of a run before anything is drawn: all of them, or the last ones that `strength` leaves.
///
/// # Errors
/// As [`prepare`].
pub fn timesteps(
    vae: &VaeConfig,
    scheduler: &FlowMatch,
    settings: &Settings,
    strength: Option<f64>,
) -> Result<Vec<f32>, PipelineError> {
    let mut schedule = Grid::new(vae, settings)?.schedule(scheduler, settings)?;
    let start = strength.map_or(Ok(0), |strength| schedule.start(strength))?;
    Ok(schedule.timesteps.split_off(start))
}

/// [`prepare`] for [`Start::Noise`], which needs the VAE's sizes and not its weights.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_noise(
    vae: &VaeConfig,
    scheduler: &FlowMatch,
    settings: &Settings,
    dtype: DType,
    device: &Device,
) -> Result<Prepared, PipelineError> {
    let grid = Grid::new(vae, settings)?;
    let schedule = grid.schedule(scheduler, settings)?;
    let noise = Generator::new(settings.seed).randn(grid.shape, dtype, device)?;
    Ok(grid.prepared(pack(&noise)?, schedule, 0))
}

/// Draws and encodes. `dtype` is that of the transformer, in which diffusers draws.
///
/// # Errors
/// A side below 16 pixels, steps or strength out of range, no room on the device.
pub fn prepare(
    vae: &Vae,
    scheduler: &FlowMatch,
    settings: &Settings,
    start: &Start<'_>,
    dtype: DType,
    device: &Device,
) -> Result<Prepared, PipelineError> {
    let (image, mask, strength) = match start {
        Start::Noise => return prepare_noise(vae.config(), scheduler, settings, dtype, device),
        Start::Image { image, strength } => (*image, None, *strength),
        Start::Inpaint { image, mask, strength } => (*image, Some(*mask), *strength),
    };
    let grid = Grid::new(vae.config(), settings)?;
    let schedule = grid.schedule(scheduler, settings)?;
    let first = schedule.start(strength)?;
    let mut generator = Generator::new(settings.seed);
    let pixels = picture_to_tensor(image, grid.width, grid.height, device)?;
    let posterior = vae.encode(&pixels.to_dtype(vae.config().safe_dtype(dtype))?)?;
    let image = vae.scale(&posterior.sample(&mut generator)?)?.to_dtype(dtype)?;
    let noise = generator.randn(grid.shape, dtype, device)?;
    let latents = schedule.add_noise(first, &image, &noise)?;
    let mut prepared = grid.prepared(pack(&latents)?, schedule, first);
    if let Some(mask) = mask {
        // diffusers now encodes the masked picture, which draws a third time, and does not use it.
        let mask = mask_to_tensor(mask, grid.width, grid.height, device)?;
        let mask = nearest(&mask, vae.config().shrink())?.to_dtype(dtype)?.broadcast_as(grid.shape)?;
        let mask = pack(&mask.contiguous()?)?;
        prepared.blend = Some(Blend { image: pack(&image)?, noise: pack(&noise)?, mask });
    }
    Ok(prepared)
}

/// Every `scale`-th row and column, which is torch's nearest interpolation by a whole factor.
fn nearest(mask: &Tensor, scale: usize) -> candle_core::Result<Tensor> {
    let (_, _, height, width) = mask.dims4()?;
    let every = |size: usize| -> candle_core::Result<Tensor> {
        let at: Vec<u32> = (0..size / scale).map(|index| (index * scale) as u32).collect();
        Tensor::from_slice(&at, at.len(), mask.device())
    };
    mask.index_select(&every(height)?, 2)?.index_select(&every(width)?, 3)
}

/// A crop for inpainting around the mask only: see [`Crop`].
///
/// # Errors
/// An image and a mask of different sizes.
pub(super) fn cropped(
    image: &DynamicImage,
    mask: &DynamicImage,
    settings: &Settings,
    padding: u32,
) -> Result<Crop, PipelineError> {
    if (image.width(), image.height()) != (mask.width(), mask.height()) {
        return Err(PipelineError::Unfit(format!(
            "a mask of {} x {} pixels for an image of {} x {}; a padded crop needs equal sizes",
            mask.width(),
            mask.height(),
            image.width(),
            image.height()
        )));
    }
    Ok(Crop::around(mask, settings.width, settings.height, padding))
}

//! The denoiser: `UNet2DConditionModel` with SDXL's conditioning.

use candle_core::{Result, Tensor};

use super::TIME_IDS;
use super::blocks::UpBlock;
use super::config::UnetConfig;
use super::controlnet::Residuals;
use super::resnet::GroupNorm;
use super::transformer::Read;
use super::trunk::{Conditioning, Trunk};
use crate::models::ops::Conv;
use crate::models::weights::Weights;

/// The UNet.
#[derive(Debug, Clone)]
pub struct Unet {
    config: UnetConfig,
    trunk: Trunk,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Unet {
    /// Reads from the root of a UNet's weights, diffusers' keys.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; a configuration of another kind of UNet.
    pub fn new(config: &UnetConfig, w: &Weights) -> Result<Self> {
        let shape = config.shape()?;
        let up = |index: usize| UpBlock::new(&shape, index, &w.pp("up_blocks").pp(index));
        Ok(Self {
            trunk: Trunk::new(&config.trunk, &shape, w)?,
            up: (0..shape.levels.len()).map(up).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(shape.outermost, shape.groups, shape.eps, &w.pp("conv_norm_out"))?,
            conv_out: Conv::new(shape.outermost, config.out_channels, 3, 1, 1, &w.pp("conv_out"))?,
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Prepares `text` (batch, words, text channels), `pooled` (batch, pooled channels) and each row's ids (original height
    /// and width, crop top and left, target height and width) for all steps.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn condition(&self, text: &Tensor, pooled: &Tensor, ids: &[[f32; TIME_IDS]]) -> Result<Conditioning> {
        let mut conditioning = self.trunk.condition(text, pooled, ids)?;
        self.up.iter().try_for_each(|block| block.read(text, &mut conditioning.text))?;
        Ok(conditioning)
    }

    /// Predicts the noise in `sample` (batch, channels, height, width), which the scheduler has scaled, at `timestep`
    /// (0 to 1000); the result has its shape. `residuals` are a ControlNet's.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn forward(
        &self,
        sample: &Tensor,
        timestep: f32,
        conditioning: &Conditioning,
        residuals: Option<&Residuals>,
    ) -> Result<Tensor> {
        let mut text = Read::new(&conditioning.text);
        let time = self.trunk.time(timestep, conditioning)?;
        let (mut skips, mut x) = self.trunk.forward(sample, &time, &mut text, None)?;
        if let Some(residuals) = residuals {
            x = residuals.add_to(&mut skips, &x)?;
        }
        for block in &self.up {
            x = block.forward(x, &time, &mut text, &mut skips)?;
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?)
    }
}

//! `ControlNetModel`: a second way down, which sees a control picture and adds to the UNet's skips.

use candle_core::{Result, Tensor};

use super::TIME_IDS;
use super::config::ControlNetConfig;
use super::transformer::Read;
use super::trunk::{Conditioning, Trunk};
use crate::models::ops::{self, Aside, Beside, Conv};
use crate::models::weights::Weights;

/// What is added to a UNet, times a scale.
///
/// They wait unscaled, and perhaps unfinished: whoever adds one to a skip scales it in the same pass, and a card may compute
/// them beside the UNet's own way down.
#[derive(Debug)]
pub struct Residuals<'a> {
    unscaled: Beside<'a, Unscaled>,
    scale: f64,
}

/// One tensor a skip, in order, and one for the middle.
#[derive(Debug)]
struct Unscaled {
    down: Vec<Tensor>,
    middle: Tensor,
}

impl Residuals<'_> {
    /// One a skip, from the outermost inwards, scaled.
    ///
    /// # Errors
    /// No room on the device.
    pub fn down(&self) -> Result<Vec<Tensor>> {
        self.unscaled.join()?.down.iter().map(|residual| ops::scaled(residual, self.scale)).collect()
    }

    /// The middle's, scaled.
    ///
    /// # Errors
    /// No room on the device.
    pub fn middle(&self) -> Result<Tensor> {
        ops::scaled(&self.unscaled.join()?.middle, self.scale)
    }

    /// Adds each to its skip, and gives the sum of the middle's and `middle`.
    pub(super) fn add_to(&self, skips: &mut [Tensor], middle: &Tensor) -> Result<Tensor> {
        let Unscaled { down, middle: own } = self.unscaled.join()?;
        if down.len() != skips.len() {
            candle_core::bail!(
                "a ControlNet of {} residuals for a UNet of {}: they are not of one family",
                down.len(),
                skips.len()
            );
        }
        for (skip, residual) in skips.iter_mut().zip(down) {
            *skip = ops::add_scaled(skip, residual, self.scale)?;
        }
        ops::add_scaled(middle, own, self.scale)
    }
}

/// The control picture brought to the latents' size and the first level's channels, and where the steps of its request are
/// computed; see [`ControlNet::hint`].
#[derive(Debug, Clone)]
pub struct Hint {
    embedded: Tensor,
    aside: Aside,
}

/// The ControlNet.
#[derive(Debug, Clone)]
pub struct ControlNet {
    config: ControlNetConfig,
    trunk: Trunk,
    hint_in: Conv,
    hint_blocks: Vec<Conv>,
    hint_out: Conv,
    down: Vec<Conv>,
    middle: Conv,
}

impl ControlNet {
    /// Reads from the root of a ControlNet's weights, diffusers' keys.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; a configuration of another kind of ControlNet.
    pub fn new(config: &ControlNetConfig, w: &Weights) -> Result<Self> {
        let shape = config.shape()?;
        let embedding = w.pp("controlnet_cond_embedding");
        let channels = &config.conditioning_embedding_out_channels;
        let (Some(&first), Some(&last)) = (channels.first(), channels.last()) else {
            candle_core::bail!(
                "SDXL config: conditioning_embedding_out_channels: expected a level, found none"
            );
        };
        let mut hint_blocks = Vec::with_capacity(2 * channels.len());
        for (&inputs, &outputs) in channels.iter().zip(channels.iter().skip(1)) {
            for (outputs, stride) in [(inputs, 1), (outputs, 2)] {
                let w = embedding.pp("blocks").pp(hint_blocks.len());
                hint_blocks.push(Conv::new(inputs, outputs, 3, stride, 1, &w)?);
            }
        }
        // One a skip: the first convolution, each layer, each change of size.
        let mut skips = vec![shape.outermost];
        for (index, level) in shape.levels.iter().enumerate() {
            let change = usize::from(index + 1 < shape.levels.len());
            skips.extend(std::iter::repeat_n(level.channels, shape.layers + change));
        }
        let zero = |channels: usize, w: &Weights| Conv::new(channels, channels, 1, 1, 0, w);
        Ok(Self {
            trunk: Trunk::new(&config.trunk, &shape, w)?,
            hint_in: Conv::new(config.conditioning_channels, first, 3, 1, 1, &embedding.pp("conv_in"))?,
            hint_blocks,
            hint_out: Conv::new(last, shape.outermost, 3, 1, 1, &embedding.pp("conv_out"))?,
            down: skips
                .into_iter()
                .enumerate()
                .map(|(index, channels)| zero(channels, &w.pp("controlnet_down_blocks").pp(index)))
                .collect::<Result<_>>()?,
            middle: zero(shape.innermost, &w.pp("controlnet_mid_block"))?,
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// As [`super::Unet::condition`], by this net's own layers.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn condition(&self, text: &Tensor, pooled: &Tensor, ids: &[[f32; TIME_IDS]]) -> Result<Conditioning> {
        self.trunk.condition(text, pooled, ids)
    }

    /// Embeds a control picture (batch or 1, 3, height, width) in [0, 1], red first. Once a request: neither the noise
    /// level nor the prompt enters.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn hint(&self, picture: &Tensor) -> Result<Hint> {
        let picture = if self.config.controlnet_conditioning_channel_order == "bgr" {
            picture.flip(&[1])?
        } else {
            picture.clone()
        };
        let mut x = ops::each(&self.hint_in.forward(&picture)?, ops::silu)?;
        for conv in &self.hint_blocks {
            x = ops::each(&conv.forward(&x)?, ops::silu)?;
        }
        let embedded = self.hint_out.forward(&x)?;
        Ok(Hint { aside: Aside::open(&embedded), embedded })
    }

    /// What to add to the UNet that denoises the same `sample`, times `scale`.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn forward<'a>(
        &'a self,
        sample: &Tensor,
        timestep: f32,
        conditioning: &'a Conditioning,
        hint: &'a Hint,
        scale: f64,
    ) -> Result<Residuals<'a>> {
        let time = self.trunk.time(timestep, conditioning)?;
        let unscaled = hint.aside.run(&[sample, &time], move |inputs| {
            let [sample, time] = inputs else {
                candle_core::bail!("a ControlNet of {} inputs, not 2; please report this", inputs.len())
            };
            let mut text = Read::new(&conditioning.text);
            let (skips, middle) = self.trunk.forward(sample, time, &mut text, Some(&hint.embedded))?;
            let down = self.down.iter().zip(&skips).map(|(conv, skip)| conv.forward(skip));
            Ok(Unscaled { down: down.collect::<Result<_>>()?, middle: self.middle.forward(&middle)? })
        })?;
        Ok(Residuals { unscaled, scale })
    }
}

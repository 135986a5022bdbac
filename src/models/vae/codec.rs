//! Encoder and decoder.

use candle_core::{Result, Tensor};

use super::VaeConfig;
use super::blocks::{GroupNorm, Middle, Resnet};
use crate::models::ops::{self, Conv};
use crate::models::weights::Weights;

/// A level: residual blocks, then a change of size in all levels but the last.
#[derive(Debug, Clone)]
struct Level {
    resnets: Vec<Resnet>,
    resize: Option<Conv>,
}

/// (batch, 3, height, width) -> (batch, 2 latent channels, height / 8, width / 8).
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Encoder {
    pub(super) fn new(config: &VaeConfig, w: &Weights) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = ends(config)?;
        let mut inputs = first;
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &outputs) in channels.iter().enumerate() {
            let w = w.pp("down_blocks").pp(i);
            let mut resnets = Vec::with_capacity(config.layers_per_block);
            for j in 0..config.layers_per_block {
                resnets.push(Resnet::new(config, inputs, outputs, &w.pp("resnets").pp(j))?);
                inputs = outputs;
            }
            let resize = (i + 1 < channels.len())
                .then(|| Conv::new(outputs, outputs, 3, 2, 0, &w.pp("downsamplers.0.conv")))
                .transpose()?;
            levels.push(Level { resnets, resize });
        }
        Ok(Self {
            conv_in: Conv::new(config.in_channels, first, 3, 1, 1, &w.pp("conv_in"))?,
            levels,
            middle: Middle::new(config, last, &w.pp("mid_block"))?,
            norm_out: GroupNorm::new(config, last, &w.pp("conv_norm_out"))?,
            conv_out: Conv::new(last, 2 * config.latent_channels, 3, 1, 1, &w.pp("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.resize {
                // Padded below and to the right only.
                x = conv.forward_grown(&x)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&self.middle.forward(&x)?)?)
    }
}

/// (batch, latent channels, height / 8, width / 8) -> (batch, 3, height, width).
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    conv_in: Conv,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Decoder {
    pub(super) fn new(config: &VaeConfig, w: &Weights) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = ends(config)?;
        let mut inputs = last;
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &outputs) in channels.iter().rev().enumerate() {
            let w = w.pp("up_blocks").pp(i);
            let mut resnets = Vec::with_capacity(config.layers_per_block + 1);
            for j in 0..=config.layers_per_block {
                resnets.push(Resnet::new(config, inputs, outputs, &w.pp("resnets").pp(j))?);
                inputs = outputs;
            }
            let resize = (i + 1 < channels.len())
                .then(|| Conv::new(outputs, outputs, 3, 1, 1, &w.pp("upsamplers.0.conv")))
                .transpose()?;
            levels.push(Level { resnets, resize });
        }
        Ok(Self {
            conv_in: Conv::new(config.latent_channels, last, 3, 1, 1, &w.pp("conv_in"))?,
            middle: Middle::new(config, last, &w.pp("mid_block"))?,
            levels,
            norm_out: GroupNorm::new(config, first, &w.pp("conv_norm_out"))?,
            conv_out: Conv::new(first, config.out_channels, 3, 1, 1, &w.pp("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(z)?)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &level.resize {
                let (_, _, height, width) = x.dims4()?;
                x = conv.forward(&ops::upsample_nearest(&x, 2 * height, 2 * width)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.silu(&x)?)
    }
}

/// Channels of the outermost and of the innermost level.
fn ends(config: &VaeConfig) -> Result<(usize, usize)> {
    match (config.block_out_channels.first(), config.block_out_channels.last()) {
        (Some(&first), Some(&last)) => Ok((first, last)),
        _ => candle_core::bail!("VAE config: block_out_channels is empty"),
    }
}

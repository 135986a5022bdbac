//! The image autoencoder (diffusers' `AutoencoderKL`) of FLUX (16 latent channels) and SDXL (4, with quant convolutions).
//!
//! Pictures are (batch, 3, height, width) in [-1, 1], latents (batch, channels, height / 8, width / 8). Keys are
//! diffusers'; other layouts are mapped by the checkpoint's opener. Must not know schedules, masks or prompts.
//! Callers: the pipelines.
//!
//! Own rather than candle-transformers': its Stable Diffusion VAE lacks the clamp of the log-variance, `mode()` and a host
//! generator, the one of `z_image` the quant convolutions, and neither can tile.

mod blocks;
mod codec;
mod posterior;
mod tiling;

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use crate::models::ops::Conv;
use crate::models::weights::Weights;
use codec::{Decoder, Encoder};

pub use posterior::Posterior;

/// `vae/config.json`; diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are those of the file")]
pub struct VaeConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of each level, from the picture inwards; every level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Edge of a tile in pixels.
    pub sample_size: usize,
    /// Latents for the net are `(z - shift) * scaling`.
    pub scaling_factor: f64,
    /// See `scaling_factor`; absent means 0.
    pub shift_factor: Option<f64>,
    /// The weights overflow in f16.
    pub force_upcast: bool,
    /// A 1x1 convolution after the encoder (SDXL).
    pub use_quant_conv: bool,
    /// A 1x1 convolution before the decoder (SDXL).
    pub use_post_quant_conv: bool,
    /// Attention in the middle.
    pub mid_block_add_attention: bool,
    /// Block classes; only `DownEncoderBlock2D` is known.
    pub down_block_types: Option<Vec<String>>,
    /// Block classes; only `UpDecoderBlock2D` is known.
    pub up_block_types: Option<Vec<String>>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            down_block_types: None,
            up_block_types: None,
        }
    }
}

impl VaeConfig {
    /// Pixels along a latent's edge: 8 for four levels.
    pub fn shrink(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// The dtype to load the weights in when the pipeline computes in `wanted`: f32 instead of f16 where the checkpoint
    /// says that it overflows. diffusers does so for SDXL.
    pub fn safe_dtype(&self, wanted: DType) -> DType {
        if wanted == DType::F16 && self.force_upcast { DType::F32 } else { wanted }
    }

    fn check(&self) -> Result<()> {
        let known = |types: &Option<Vec<String>>, known: &str| match types
            .iter()
            .flatten()
            .find(|name| *name != known)
        {
            Some(name) => candle_core::bail!("VAE config: block type {name}; only {known} is known"),
            None => Ok(()),
        };
        known(&self.down_block_types, "DownEncoderBlock2D")?;
        known(&self.up_block_types, "UpDecoderBlock2D")?;
        let groups = self.norm_num_groups;
        if self.block_out_channels.is_empty() {
            candle_core::bail!("VAE config: block_out_channels is empty");
        }
        if let Some(channels) = self.block_out_channels.iter().find(|c| groups == 0 || *c % groups != 0) {
            candle_core::bail!("VAE config: norm_num_groups {groups} does not divide {channels} channels");
        }
        Ok(())
    }
}

/// The autoencoder.
#[derive(Debug, Clone)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    quant: Option<Conv>,
    post_quant: Option<Conv>,
    decoder: Decoder,
}

impl Vae {
    /// Reads both halves.
    ///
    /// # Errors
    /// Missing or mis-shaped tensors; a configuration of another class.
    pub fn new(config: &VaeConfig, w: &Weights) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let square = |on: bool, channels, name| {
            on.then(|| Conv::new(channels, channels, 1, 1, 0, &w.pp(name))).transpose()
        };
        Ok(Self {
            encoder: Encoder::new(config, &w.pp("encoder"))?,
            quant: square(config.use_quant_conv, 2 * latent, "quant_conv")?,
            post_quant: square(config.use_post_quant_conv, latent, "post_quant_conv")?,
            decoder: Decoder::new(config, &w.pp("decoder"))?,
            config: config.clone(),
        })
    }

    /// What the weights were made for.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of latents of `pictures`.
    ///
    /// # Errors
    /// A shape that is not (batch, 3, height, width); no room on the device.
    pub fn encode(&self, pictures: &Tensor) -> Result<Posterior> {
        Posterior::from_moments(&self.moments(pictures)?)
    }

    /// [`Vae::encode`] in tiles, as diffusers does with tiling enabled: memory no longer grows with the picture, and the
    /// result differs a little. A picture of one tile is encoded whole.
    ///
    /// # Errors
    /// As [`Vae::encode`].
    pub fn encode_tiled(&self, pictures: &Tensor) -> Result<Posterior> {
        let (pixels, latents) = self.tile();
        Posterior::from_moments(&tiling::tiled(pictures, pixels, latents, |tile| self.moments(tile))?)
    }

    /// Pictures of `latents`, which are unscaled (see [`Vae::unscale`]). Not clamped.
    ///
    /// # Errors
    /// A shape that is not (batch, channels, height, width); no room on the device.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match &self.post_quant {
            Some(conv) => self.decoder.forward(&conv.forward(latents)?),
            None => self.decoder.forward(latents),
        }
    }

    /// [`Vae::decode`] in tiles; see [`Vae::encode_tiled`].
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_tiled(&self, latents: &Tensor) -> Result<Tensor> {
        let (pixels, small) = self.tile();
        tiling::tiled(latents, small, pixels, |tile| self.decode(tile))
    }

    /// `(z - shift) * scaling`: what the net works on.
    ///
    /// # Errors
    /// No room on the device.
    pub fn scale(&self, z: &Tensor) -> Result<Tensor> {
        let z = match self.config.shift_factor {
            Some(shift) => by_scalar(z, |z| z - f64::from(shift as f32))?,
            None => z.clone(),
        };
        by_scalar(&z, |z| z * f64::from(self.config.scaling_factor as f32))
    }

    /// `latents / scaling + shift`: the inverse of [`Vae::scale`].
    ///
    /// # Errors
    /// No room on the device.
    pub fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        // `z / s` in candle multiplies by the reciprocal; torch divides.
        let scaling = Tensor::new(self.config.scaling_factor as f32, latents.device())?;
        let z = by_scalar(latents, |z| z.broadcast_div(&scaling))?;
        match self.config.shift_factor {
            Some(shift) => by_scalar(&z, |z| z + f64::from(shift as f32)),
            None => Ok(z),
        }
    }

    fn moments(&self, pictures: &Tensor) -> Result<Tensor> {
        let moments = self.encoder.forward(pictures)?;
        match &self.quant {
            Some(conv) => conv.forward(&moments),
            None => Ok(moments),
        }
    }

    /// Edges of a tile in pixels and in latents.
    fn tile(&self) -> (usize, usize) {
        let pixels = self.config.sample_size;
        (pixels, pixels / self.config.shrink())
    }
}

/// torch computes `half tensor (op) number` in f32 and rounds once; candle would round the number first.
fn by_scalar(x: &Tensor, op: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    op(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

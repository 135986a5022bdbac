//! SDXL's samplers: text to image, and the same steered by a ControlNet; draws and arithmetic in diffusers' order
//! (`StableDiffusionXLPipeline`, `StableDiffusionXLControlNetPipeline`).
//!
//! The stages are separate functions because the nets of one need not be on the device during another: [`encode`] wants
//! the text encoders, [`prepare`] no net, [`Denoiser`] UNet and ControlNet, [`decode`] the VAE. [`Pipeline`] runs them with
//! all nets at hand. Must not know jobs, plans, or which net is where. Callers: the engine, `generate`, `parity`.

mod denoise;
mod prepare;
mod run;

pub use crate::models::PipelineError;
pub use denoise::{Control, Denoiser, Guidance, Watch, denoise};
pub use prepare::{Framing, Prepared, Settings, prepare};
pub use run::{ControlNetTextToImage, Pipeline, TextToImage};

use candle_core::{D, Tensor};
use image::RgbImage;

use crate::models::image_processor::tensor_to_pictures;
use crate::models::text_encoders::clip::ClipText;
use crate::models::vae::Vae;

/// A prompt as the nets read it.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Both encoders' last but one layers, side by side: (batch, words, channels).
    pub embeds: Tensor,
    /// The second encoder's projected end token: (batch, channels).
    pub pooled: Tensor,
}

impl Prompt {
    /// The negative prompt that stands for none, where the checkpoint says so (`force_zeros_for_empty_prompt`, SDXL's base):
    /// zeros. An empty text is something else; it is encoded.
    ///
    /// # Errors
    /// No room on the device.
    pub fn zeros_like(&self) -> Result<Self, PipelineError> {
        Ok(Self { embeds: self.embeds.zeros_like()?, pooled: self.pooled.zeros_like()? })
    }
}

/// Encodes token ids with both encoders, each tokenised with its own padding. No attention mask: SDXL attends to it.
///
/// # Errors
/// Ids beyond a vocabulary, a second encoder without a projection, no room on the device.
pub fn encode(
    first: &ClipText,
    second: &ClipText,
    first_ids: &[Vec<u32>],
    second_ids: &[Vec<u32>],
) -> Result<Prompt, PipelineError> {
    let (first, second) = (first.forward(first_ids)?, second.forward(second_ids)?);
    let (Some(left), Some(right)) = (first.penultimate(0), second.penultimate(0)) else {
        return Err(PipelineError::Unfit(
            "a text encoder of one layer; SDXL reads the last but one".to_owned(),
        ));
    };
    let embeds = Tensor::cat(&[left, right], D::Minus1)?;
    let Some(pooled) = second.text_embeds else {
        return Err(PipelineError::Unfit(
            "text_encoder_2 has no text_projection; SDXL needs a CLIPTextModelWithProjection".to_owned(),
        ));
    };
    Ok(Prompt { embeds, pooled })
}

/// Latents to pixels. Where the VAE overflows in f16, they go through it in f32, in which it must then be loaded
/// ([`crate::models::vae::VaeConfig::safe_dtype`]).
///
/// # Errors
/// Shapes that do not match, no room on the device.
pub fn decode(vae: &Vae, latents: &Tensor) -> Result<Vec<RgbImage>, PipelineError> {
    let latents = vae.unscale(&latents.to_dtype(vae.config().safe_dtype(latents.dtype()))?)?;
    Ok(tensor_to_pictures(&vae.decode(&latents)?)?)
}

//! FLUX's sampler: text to image, image to image, inpainting by blending, true classifier-free guidance; draws and
//! arithmetic in diffusers' order (`FluxPipeline`, `FluxImg2ImgPipeline`, `FluxInpaintPipeline`).
//!
//! The stages are separate functions because the nets of one need not be on the device during another: [`encode`],
//! [`prepare`], [`denoise`], [`decode`]. [`Pipeline`] runs them with all nets at hand. Must not know jobs, plans, or which
//! net is where. Callers: the engine, `generate`, `parity`.

mod crop;
mod denoise;
mod latents;
mod prepare;
mod run;

pub use crate::models::PipelineError;
pub use crop::Crop;
pub use denoise::{Conditioning, Denoiser, Guidance, Watch, denoise};
pub use latents::{pack, unpack};
pub use prepare::{Prepared, Settings, Start, prepare, prepare_noise, timesteps};
pub use run::{Pipeline, Request};

use candle_core::Tensor;
use image::RgbImage;

use crate::models::image_processor::tensor_to_pictures;
use crate::models::text_encoders::clip::ClipText;
use crate::models::text_encoders::t5::T5Encoder;
use crate::models::vae::Vae;

/// A prompt as the transformer reads it.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// T5's tokens: (batch, words, channels).
    pub embeds: Tensor,
    /// CLIP's pooled vector: (batch, channels).
    pub pooled: Tensor,
}

/// Encodes token ids with both encoders. No attention mask: FLUX attends to the padding.
///
/// # Errors
/// Ids beyond a vocabulary, no room on the device.
pub fn encode(
    clip: &ClipText,
    t5: &T5Encoder,
    clip_ids: &[Vec<u32>],
    t5_ids: &[Vec<u32>],
) -> Result<Prompt, PipelineError> {
    Ok(Prompt { pooled: clip.forward(clip_ids)?.pooled, embeds: t5.forward(t5_ids)? })
}

/// Packed latents of a picture of `width` x `height` pixels to pixels.
///
/// # Errors
/// Shapes that do not match, no room on the device.
pub fn decode(vae: &Vae, latents: &Tensor, width: u32, height: u32) -> Result<Vec<RgbImage>, PipelineError> {
    let scale = vae.config().shrink();
    let latents = unpack(latents, height as usize / scale / 2, width as usize / scale / 2)?;
    let latents = vae.unscale(&latents.to_dtype(vae.config().safe_dtype(latents.dtype()))?)?;
    Ok(tensor_to_pictures(&vae.decode(&latents)?)?)
}

//! All nets of a checkpoint on one device, for callers without a memory policy.

use candle_core::{DType, Device};
use image::{DynamicImage, RgbImage};

use super::prepare::cropped;
use super::{
    Denoiser, Guidance, PipelineError, Prompt, Settings, Start, Watch, decode, denoise, encode, prepare,
};
use crate::models::checkpoint::FluxCheckpoint;
use crate::models::flux::{Conditioner, Transformer};
use crate::models::schedulers::FlowMatch;
use crate::models::text_encoders::clip::ClipText;
use crate::models::text_encoders::t5::T5Encoder;
use crate::models::tokenizers::{Clip, T5};
use crate::models::vae::Vae;

/// One picture.
pub struct Request<'a> {
    /// What to paint.
    pub prompt: &'a str,
    /// What to avoid; acts with `true_cfg_scale` above 1.
    pub negative_prompt: Option<&'a str>,
    /// Size, steps, seed.
    pub settings: Settings,
    /// Distilled guidance.
    pub guidance: f64,
    /// True classifier-free guidance; 1 is off.
    pub true_cfg_scale: f64,
    /// T5 tokens: 512 for dev, 256 for schnell.
    pub words: usize,
    /// What to start from.
    pub start: Start<'a>,
    /// Inpainting only: work on the mask's surroundings, this many pixels beyond it, and put the result back.
    pub padding_mask_crop: Option<u32>,
}

/// FLUX, loaded.
pub struct Pipeline {
    clip_tokenizer: Clip,
    t5_tokenizer: T5,
    clip: ClipText,
    t5: T5Encoder,
    conditioner: Conditioner,
    transformer: Transformer,
    vae: Vae,
    scheduler: FlowMatch,
    dtype: DType,
    device: Device,
}

impl Pipeline {
    /// Loads every net of `checkpoint` as `dtype` on `device`.
    ///
    /// # Errors
    /// Unreadable tokenizers, a scheduler of another kind, no room on the device.
    pub fn load(checkpoint: &FluxCheckpoint, dtype: DType, device: &Device) -> Result<Self, PipelineError> {
        let flux = checkpoint.transformer.weights(dtype, device);
        let config = &checkpoint.transformer.config;
        let vae_dtype = checkpoint.vae.config.safe_dtype(dtype);
        Ok(Self {
            clip_tokenizer: Clip::from_folder(&checkpoint.tokenizer)?,
            t5_tokenizer: T5::from_folder(&checkpoint.tokenizer_2)?,
            clip: ClipText::new(
                &checkpoint.text_encoder.config,
                &checkpoint.text_encoder.weights(dtype, device),
            )?,
            t5: T5Encoder::new(
                &checkpoint.text_encoder_2.config,
                &checkpoint.text_encoder_2.weights(dtype, device),
            )?,
            conditioner: Conditioner::new(config, &flux)?,
            transformer: Transformer::new(config, &flux)?,
            vae: Vae::new(&checkpoint.vae.config, &checkpoint.vae.weights(vae_dtype, device))?,
            scheduler: FlowMatch::new(checkpoint.scheduler.clone())?,
            dtype,
            device: device.clone(),
        })
    }

    /// Whether the distilled guidance is an input (dev) or not (schnell).
    pub fn has_guidance(&self) -> bool {
        self.transformer.config().guidance_embeds
    }

    /// Makes a picture.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn generate(&self, request: &Request<'_>, watch: &mut dyn Watch) -> Result<RgbImage, PipelineError> {
        let crop = match (&request.start, request.padding_mask_crop) {
            (Start::Inpaint { image, mask, .. }, Some(padding)) => {
                Some(cropped(image, mask, &request.settings, padding)?)
            }
            (_, Some(_)) => {
                return Err(PipelineError::Unfit(
                    "padding_mask_crop without a mask; it is for inpainting".to_owned(),
                ));
            }
            (_, None) => None,
        };
        let (Some(crop), Start::Inpaint { image, mask, strength }) = (crop, &request.start) else {
            return self.paint(request, &request.start, watch);
        };
        let (width, height) = (request.settings.width, request.settings.height);
        let (inner_image, inner_mask) = (crop.cut(image, width, height), crop.cut(mask, width, height));
        let start = Start::Inpaint { image: &inner_image, mask: &inner_mask, strength: *strength };
        let painted = self.paint(request, &start, watch)?;
        Ok(crop.put_back(&DynamicImage::ImageRgb8(painted), image, mask))
    }

    fn paint(
        &self,
        request: &Request<'_>,
        start: &Start<'_>,
        watch: &mut dyn Watch,
    ) -> Result<RgbImage, PipelineError> {
        let prompt = self.prompt(request.prompt, request.words)?;
        let negative = match request.negative_prompt {
            Some(text) if request.true_cfg_scale > 1.0 => Some(self.prompt(text, request.words)?),
            _ => None,
        };
        let prepared =
            prepare(&self.vae, &self.scheduler, &request.settings, start, self.dtype, &self.device)?;
        let guidance = Guidance {
            scale: request.guidance as f32,
            prompt: &prompt,
            negative: negative.as_ref().map(|negative| (request.true_cfg_scale, negative)),
        };
        let denoiser = Denoiser::new(&self.transformer, &self.conditioner, &guidance, prepared.timesteps())?;
        let latents = denoise(&denoiser, &prepared, watch)?;
        decode(&self.vae, &latents, prepared.width, prepared.height)?
            .into_iter()
            .next()
            .ok_or_else(|| PipelineError::Unfit("the VAE decoded no picture".to_owned()))
    }

    fn prompt(&self, text: &str, words: usize) -> Result<Prompt, PipelineError> {
        let clip = self.clip_tokenizer.encode(text)?.ids;
        let t5 = self.t5_tokenizer.encode(text, words)?.ids;
        encode(&self.clip, &self.t5, &[clip], &[t5])
    }
}

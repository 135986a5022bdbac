//! All nets of a checkpoint on one device, for callers without a memory policy.

use candle_core::{DType, Device};
use image::RgbImage;

use super::{
    Control, Denoiser, Framing, Guidance, PipelineError, Prompt, Settings, Watch, decode, denoise, encode,
    prepare,
};
use crate::models::checkpoint::{NetFiles, SdxlCheckpoint};
use crate::models::schedulers::EulerDiscrete;
use crate::models::sdxl::{ControlNet, ControlNetConfig, Unet};
use crate::models::text_encoders::clip::ClipText;
use crate::models::tokenizers::Clip;
use crate::models::vae::Vae;

/// One picture from words.
#[derive(Debug, Clone)]
pub struct TextToImage<'a> {
    /// What to paint; both encoders read it.
    pub prompt: &'a str,
    /// What to avoid; acts with a guidance above 1. `None` is not the empty text, see [`Prompt::zeros_like`].
    pub negative_prompt: Option<&'a str>,
    /// Size, steps, seed.
    pub settings: Settings,
    /// Classifier-free guidance; 1 is off. diffusers' default is 5.
    pub guidance: f64,
    /// `None` for [`Framing::whole`].
    pub framing: Option<Framing>,
}

/// One picture from words and a control picture.
#[derive(Debug, Clone)]
pub struct ControlNetTextToImage<'a> {
    /// The words.
    pub text: TextToImage<'a>,
    /// The shapes.
    pub control: Control<'a>,
}

/// SDXL, loaded.
pub struct Pipeline {
    tokenizer: Clip,
    tokenizer_2: Clip,
    text_encoder: ClipText,
    text_encoder_2: ClipText,
    unet: Unet,
    controlnet: Option<ControlNet>,
    vae: Vae,
    scheduler: EulerDiscrete,
    zero_empty_prompt: bool,
    dtype: DType,
    device: Device,
}

impl Pipeline {
    /// Loads every net of `checkpoint`, and a ControlNet if one is to be used, as `dtype` on `device`; the VAE as f32 where
    /// it overflows in f16.
    ///
    /// # Errors
    /// Unreadable tokenizers, a scheduler of another kind, no room on the device.
    pub fn load(
        checkpoint: &SdxlCheckpoint,
        controlnet: Option<&NetFiles<ControlNetConfig>>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let SdxlCheckpoint { unet, text_encoder, text_encoder_2, vae, .. } = checkpoint;
        let vae_dtype = vae.config.safe_dtype(dtype);
        Ok(Self {
            tokenizer: Clip::from_folder(&checkpoint.tokenizer)?,
            tokenizer_2: Clip::from_folder(&checkpoint.tokenizer_2)?,
            text_encoder: ClipText::new(&text_encoder.config, &text_encoder.weights(dtype, device))?,
            text_encoder_2: ClipText::new(&text_encoder_2.config, &text_encoder_2.weights(dtype, device))?,
            unet: Unet::new(&unet.config, &unet.weights(dtype, device))?,
            controlnet: controlnet
                .map(|net| ControlNet::new(&net.config, &net.weights(dtype, device)))
                .transpose()?,
            vae: Vae::new(&vae.config, &vae.weights(vae_dtype, device))?,
            scheduler: EulerDiscrete::new(checkpoint.scheduler.clone())?,
            zero_empty_prompt: checkpoint.zero_empty_prompt,
            dtype,
            device: device.clone(),
        })
    }

    /// Makes a picture.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn text_to_image(
        &self,
        request: &TextToImage<'_>,
        watch: &mut dyn Watch,
    ) -> Result<RgbImage, PipelineError> {
        self.paint(request, None, watch)
    }

    /// Makes a picture with the shapes of another.
    ///
    /// # Errors
    /// [`PipelineError`]; no ControlNet was loaded.
    pub fn controlnet_text_to_image(
        &self,
        request: &ControlNetTextToImage<'_>,
        watch: &mut dyn Watch,
    ) -> Result<RgbImage, PipelineError> {
        let Some(net) = &self.controlnet else {
            return Err(PipelineError::Unfit("a control picture, but no ControlNet was loaded".to_owned()));
        };
        self.paint(&request.text, Some((net, request.control)), watch)
    }

    fn paint(
        &self,
        request: &TextToImage<'_>,
        control: Option<(&ControlNet, Control<'_>)>,
        watch: &mut dyn Watch,
    ) -> Result<RgbImage, PipelineError> {
        let prompt = self.prompt(request.prompt)?;
        let negative = match request.negative_prompt {
            _ if request.guidance <= 1.0 => None,
            Some(text) => Some(self.prompt(text)?),
            None if self.zero_empty_prompt => Some(prompt.zeros_like()?),
            None => Some(self.prompt("")?),
        };
        let settings = &request.settings;
        let guidance = Guidance {
            prompt: &prompt,
            negative: negative.as_ref().map(|negative| (request.guidance, negative)),
            framing: request.framing.unwrap_or_else(|| Framing::whole(settings.width, settings.height)),
        };
        let prepared = prepare(self.vae.config(), &self.scheduler, settings, self.dtype, &self.device)?;
        let denoiser = Denoiser::new(&self.unet, &guidance, control, &prepared)?;
        let latents = denoise(&denoiser, &prepared, watch)?;
        decode(&self.vae, &latents)?
            .into_iter()
            .next()
            .ok_or_else(|| PipelineError::Unfit("the VAE decoded no picture".to_owned()))
    }

    fn prompt(&self, text: &str) -> Result<Prompt, PipelineError> {
        let (first, second) = (self.tokenizer.encode(text)?.ids, self.tokenizer_2.encode(text)?.ids);
        encode(&self.text_encoder, &self.text_encoder_2, &[first], &[second])
    }
}

//! Whole pipelines, from token ids to pixels.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor};
use image::{DynamicImage, RgbImage};

use super::golden::{Case, Golden, miss};
use super::nets::{Stages, decoded};
use crate::models::flux::pipeline::{
    Crop, Denoiser, Guidance, PipelineError, Prompt, Settings, Start, Watch, decode, denoise, encode, prepare,
};
use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::schedulers::{FlowMatch, FlowMatchConfig};
use crate::models::sdxl::pipeline as sdxl;
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};

/// Keeps the latents after each step.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Vec<Tensor>);

impl sdxl::Watch for Recorder {
    fn step(&mut self, done: u32, total: u32, latents: &Tensor) -> ControlFlow<()> {
        Watch::step(self, done, total, latents)
    }
}

impl Watch for Recorder {
    fn step(&mut self, done: u32, _: u32, latents: &Tensor) -> ControlFlow<()> {
        if done > 0 {
            self.0.push(latents.clone());
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn picture(golden: &Golden, case: &Case) -> Result<Stages> {
    run(golden, case).map_err(|error| match error {
        PipelineError::Tensor(error) => error,
        other => miss(other.to_string()),
    })
}

fn run(golden: &Golden, case: &Case) -> std::result::Result<Stages, PipelineError> {
    let (clip, clip_weights) = golden.net::<ClipConfig>(case, "text_encoder")?;
    let clip = ClipText::new(&clip, &clip_weights)?;
    let (t5, t5_weights) = golden.net::<T5Config>(case, "text_encoder_2")?;
    let t5 = T5Encoder::new(&t5, &t5_weights)?;
    let (config, weights) = golden.net::<FluxConfig>(case, "transformer")?;
    let (vae, vae_weights) = golden.net::<VaeConfig>(case, "vae")?;
    let vae = Vae::new(&vae, &vae_weights)?;
    let scheduler = FlowMatch::new(golden.net::<FlowMatchConfig>(case, "scheduler")?.0)?;

    let prompt = |clip_role: &str, t5_role: &str| -> std::result::Result<Prompt, PipelineError> {
        encode(&clip, &t5, &golden.ids(case, clip_role)?, &golden.ids(case, t5_role)?)
    };
    let positive = prompt("clip_ids", "t5_ids")?;
    let negative = if Golden::has(case, "negative_clip_ids") {
        Some(prompt("negative_clip_ids", "negative_t5_ids")?)
    } else {
        None
    };

    let settings = Settings {
        width: case.whole("width")? as u32,
        height: case.whole("height")? as u32,
        steps: case.whole("steps")? as u32,
        seed: case.whole("seed")?,
    };
    let image = picture_in(golden, case, "image")?;
    let mask = picture_in(golden, case, "mask")?;
    let crop = match (&mask, case.optional("padding_mask_crop")) {
        (Some(mask), Some(padding)) => {
            Some(Crop::around(mask, settings.width, settings.height, padding as u32))
        }
        _ => None,
    };
    let cut = |image: &Option<DynamicImage>| match (&crop, image) {
        (Some(crop), Some(image)) => Some(crop.cut(image, settings.width, settings.height)),
        (None, image) => image.clone(),
        (Some(_), None) => None,
    };
    let (inner_image, inner_mask) = (cut(&image), cut(&mask));
    let strength = || case.number("strength");
    let start = match (case.kind.as_str(), &inner_image, &inner_mask) {
        ("text_to_image", None, None) => Start::Noise,
        ("image_to_image", Some(image), None) => Start::Image { image, strength: strength()? },
        ("inpaint", Some(image), Some(mask)) => Start::Inpaint { image, mask, strength: strength()? },
        (kind, image, mask) => {
            let (image, mask) = (image.is_some(), mask.is_some());
            return Err(miss(format!("{kind} with image: {image}, mask: {mask}")).into());
        }
    };
    let prepared = prepare(&vae, &scheduler, &settings, &start, DType::F32, golden.device())?;
    let guidance = Guidance {
        scale: case.number("guidance")? as f32,
        prompt: &positive,
        negative: negative.as_ref().map(|prompt| (case.optional("true_cfg_scale").unwrap_or(1.0), prompt)),
    };
    let transformer = Transformer::new(&config, &weights)?;
    let conditioner = Conditioner::new(&config, &weights)?;
    let denoiser = Denoiser::new(&transformer, &conditioner, &guidance, prepared.timesteps())?;
    let mut recorder = Recorder::default();
    let latents = denoise(&denoiser, &prepared, &mut recorder)?;
    let mut pictures = decode(&vae, &latents, prepared.width, prepared.height)?;
    if let (Some(crop), Some(image), Some(mask)) = (&crop, &image, &mask) {
        for picture in &mut pictures {
            *picture = crop.put_back(&DynamicImage::ImageRgb8(picture.clone()), image, mask);
        }
    }

    let mut stages = Stages::new();
    let mut prompts = |prefix: &str, prompt: Prompt| {
        stages.push((format!("{prefix}pooled"), prompt.pooled));
        stages.push((format!("{prefix}prompt_embeds"), prompt.embeds));
    };
    prompts("", positive.clone());
    if let Some(negative) = &negative {
        prompts("negative_", negative.clone());
    }
    stages.extend(
        recorder.0.into_iter().enumerate().map(|(index, latents)| (format!("latents.{index}"), latents)),
    );
    for picture in pictures.into_iter().take(1) {
        stages.push(("image".to_owned(), bytes(picture)?));
    }
    Ok(stages)
}

fn picture_in(golden: &Golden, case: &Case, role: &str) -> Result<Option<DynamicImage>> {
    if Golden::has(case, role) { decoded(&golden.input(case, role)?).map(Some) } else { Ok(None) }
}

pub(super) fn bytes(picture: RgbImage) -> Result<Tensor> {
    let shape = (picture.height() as usize, picture.width() as usize, 3);
    Tensor::from_vec(picture.into_raw(), shape, &Device::Cpu)
}

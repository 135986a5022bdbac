//! SDXL's nets and pipelines, from token ids to pixels.

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use super::golden::{Case, Golden, miss};
use super::nets::{Stages, decoded};
use super::pictures::{Recorder, bytes};
use crate::models::image_processor::control_to_tensor;
use crate::models::schedulers::{EulerConfig, EulerDiscrete};
use crate::models::sdxl::pipeline::{
    Control, Denoiser, Framing, Guidance, PipelineError, Prompt, Settings, decode, denoise, encode, prepare,
};
use crate::models::sdxl::{ControlNet, ControlNetConfig, TIME_IDS, Unet, UnetConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::vae::{Vae, VaeConfig};

#[derive(Deserialize)]
struct Told {
    timestep: f32,
    time_ids: Vec<[f32; TIME_IDS]>,
    scale: f64,
}

/// UNet and ControlNet on their own, and one with the other.
pub(super) fn nets(golden: &Golden, case: &Case) -> Result<Stages> {
    let told: Told = case.parameters()?;
    let (config, weights) = golden.net::<UnetConfig>(case, "unet")?;
    let unet = Unet::new(&config, &weights)?;
    let (config, weights) = golden.net::<ControlNetConfig>(case, "controlnet")?;
    let controlnet = ControlNet::new(&config, &weights)?;
    let input = |role| golden.input(case, role);
    let (sample, text, pooled) = (input("sample")?, input("text")?, input("pooled")?);
    let picture = decoded(&input("hint")?)?;
    let hint = control_to_tensor(&picture, picture.width(), picture.height(), golden.device())?;

    let hint = controlnet.hint(&hint)?;
    let conditioning = controlnet.condition(&text, &pooled, &told.time_ids)?;
    let residuals = controlnet.forward(&sample, told.timestep, &conditioning, &hint, told.scale)?;
    let conditioning = unet.condition(&text, &pooled, &told.time_ids)?;
    let predict = |residuals| unet.forward(&sample, told.timestep, &conditioning, residuals);
    let mut stages = vec![
        ("output".to_owned(), predict(None)?),
        ("controlled".to_owned(), predict(Some(&residuals))?),
        ("middle".to_owned(), residuals.middle()?),
    ];
    stages.extend(
        residuals.down()?.into_iter().enumerate().map(|(index, part)| (format!("down.{index}"), part)),
    );
    Ok(stages)
}

/// A whole picture.
pub(super) fn picture(golden: &Golden, case: &Case) -> Result<Stages> {
    run(golden, case).map_err(|error| match error {
        PipelineError::Tensor(error) => error,
        other => miss(other.to_string()),
    })
}

#[derive(Deserialize)]
struct Asked {
    width: u32,
    height: u32,
    steps: u32,
    seed: u64,
    guidance: f64,
    #[serde(default)]
    original_size: Option<(u32, u32)>,
    #[serde(default)]
    crop: Option<(u32, u32)>,
    #[serde(default)]
    control_scale: Option<f64>,
    #[serde(default)]
    control_start: Option<f64>,
    #[serde(default)]
    control_end: Option<f64>,
}

fn run(golden: &Golden, case: &Case) -> std::result::Result<Stages, PipelineError> {
    let asked: Asked = case.parameters()?;
    let clip = |role| -> Result<ClipText> {
        let (config, weights) = golden.net::<ClipConfig>(case, role)?;
        ClipText::new(&config, &weights)
    };
    let (first, second) = (clip("text_encoder")?, clip("text_encoder_2")?);
    let prompt = |prefix: &str| {
        let ids = |role: &str| golden.ids(case, &format!("{prefix}{role}"));
        encode(&first, &second, &ids("clip_ids")?, &ids("clip_2_ids")?)
    };
    let positive = prompt("")?;
    let negative =
        if Golden::has(case, "negative_clip_ids") { prompt("negative_")? } else { positive.zeros_like()? };

    let (config, weights) = golden.net::<VaeConfig>(case, "vae")?;
    let vae = Vae::new(&config, &weights)?;
    let scheduler = EulerDiscrete::new(golden.net::<EulerConfig>(case, "scheduler")?.0)?;
    let settings =
        Settings { width: asked.width, height: asked.height, steps: asked.steps, seed: asked.seed };
    let prepared = prepare(vae.config(), &scheduler, &settings, DType::F32, golden.device())?;
    let whole = Framing::whole(asked.width, asked.height);
    let guidance = Guidance {
        prompt: &positive,
        negative: Some((asked.guidance, &negative)),
        framing: Framing {
            original: asked.original_size.unwrap_or(whole.original),
            crop: asked.crop.unwrap_or(whole.crop),
            ..whole
        },
    };
    let (config, weights) = golden.net::<UnetConfig>(case, "unet")?;
    let unet = Unet::new(&config, &weights)?;
    let steering = if Golden::has(case, "control") {
        let (config, weights) = golden.net::<ControlNetConfig>(case, "controlnet")?;
        Some((ControlNet::new(&config, &weights)?, decoded(&golden.input(case, "control")?)?))
    } else {
        None
    };
    let control = steering.as_ref().map(|(net, image)| {
        let control = Control {
            image,
            scale: asked.control_scale.unwrap_or(1.0),
            start: asked.control_start.unwrap_or(0.0),
            end: asked.control_end.unwrap_or(1.0),
        };
        (net, control)
    });
    let denoiser = Denoiser::new(&unet, &guidance, control, &prepared)?;
    let mut recorder = Recorder::default();
    let latents = denoise(&denoiser, &prepared, &mut recorder)?;

    let mut stages = Stages::new();
    let mut prompts = |prefix: &str, prompt: Prompt| {
        stages.push((format!("{prefix}pooled"), prompt.pooled));
        stages.push((format!("{prefix}prompt_embeds"), prompt.embeds));
    };
    prompts("", positive.clone());
    prompts("negative_", negative.clone());
    let steps: Vec<Tensor> = recorder.0;
    stages
        .extend(steps.into_iter().enumerate().map(|(index, latents)| (format!("latents.{index}"), latents)));
    for picture in decode(&vae, &latents)?.into_iter().take(1) {
        stages.push(("image".to_owned(), bytes(picture)?));
    }
    Ok(stages)
}

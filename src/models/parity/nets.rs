//! Stages on their own.

use candle_core::{DType, Device, Result, Tensor};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

use super::golden::{Case, Golden, miss};
use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::image_processor::{mask_to_tensor, picture_to_tensor};
use crate::models::rng::Generator;
use crate::models::schedulers::{EulerConfig, EulerDiscrete, FlowMatch, FlowMatchConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};

/// Stages by name.
pub(super) type Stages = Vec<(String, Tensor)>;

fn stage(name: &str, tensor: Tensor) -> (String, Tensor) {
    (name.to_owned(), tensor)
}

fn numbers(values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), &Device::Cpu)
}

pub(super) fn clip(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<ClipConfig>(case, "encoder")?;
    let out = ClipText::new(&config, &weights)?.forward(&golden.ids(case, "ids")?)?;
    let mut stages = Stages::new();
    if let Some(penultimate) = out.penultimate(0) {
        stages.push(stage("penultimate", penultimate.clone()));
    }
    stages.push(stage("last_hidden_state", out.last_hidden_state));
    stages.push(stage("pooled", out.pooled));
    stages.extend(out.text_embeds.map(|embeds| stage("text_embeds", embeds)));
    Ok(stages)
}

pub(super) fn t5(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<T5Config>(case, "encoder")?;
    let out = T5Encoder::new(&config, &weights)?.forward(&golden.ids(case, "ids")?)?;
    Ok(vec![stage("last_hidden_state", out)])
}

pub(super) fn transformer(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<FluxConfig>(case, "transformer")?;
    let net = Transformer::new(&config, &weights)?;
    let (image, text) = (golden.input(case, "hidden_states")?, golden.input(case, "encoder_hidden_states")?);
    let guidance = case.optional("guidance").unwrap_or_default() as f32;
    let modulation = Conditioner::new(&config, &weights)?.precompute_at(
        &[case.number("timestep")? as f32],
        guidance,
        &golden.input(case, "pooled")?,
    )?;
    let (rows, columns) = (case.whole("height")? as usize, case.whole("width")? as usize);
    let rope = net.rope(text.dim(1)?, rows, columns, golden.device())?;
    Ok(vec![stage("output", net.forward(&image, &text, modulation.step(0), &rope, &mut |_| Ok(()))?)])
}

pub(super) fn vae(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<VaeConfig>(case, "vae")?;
    let vae = Vae::new(&config, &weights)?;
    let (pixels, latents) = (golden.input(case, "pixels")?, golden.input(case, "latents")?);
    let posterior = vae.encode(&pixels)?;
    let sample = posterior.sample(&mut Generator::new(case.whole("seed")?))?;
    Ok(vec![
        stage("mean", posterior.mean),
        stage("std", posterior.std),
        stage("sample", sample),
        stage("decoded", vae.decode(&latents)?),
        stage("tiled_mean", vae.encode_tiled(&pixels)?.mean),
        stage("tiled_decoded", vae.decode_tiled(&latents)?),
    ])
}

pub(super) fn image(golden: &Golden, case: &Case) -> Result<Stages> {
    let image = decoded(&golden.input(case, "image")?)?;
    let (width, height) = (case.whole("width")? as u32, case.whole("height")? as u32);
    Ok(vec![
        stage("picture", picture_to_tensor(&image, width, height, golden.device())?),
        stage("mask", mask_to_tensor(&image, width, height, golden.device())?),
    ])
}

pub(super) fn flow_match(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, _) = golden.net::<FlowMatchConfig>(case, "scheduler")?;
    let schedule = FlowMatch::new(config)
        .and_then(|scheduler| {
            let tokens = case.whole("image_tokens").unwrap_or_default() as usize;
            scheduler.schedule(case.whole("steps").unwrap_or_default() as usize, tokens)
        })
        .map_err(|error| miss(error.to_string()))?;
    Ok(vec![stage("sigmas", numbers(&schedule.sigmas)?), stage("timesteps", numbers(&schedule.timesteps)?)])
}

pub(super) fn euler(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, _) = golden.net::<EulerConfig>(case, "scheduler")?;
    let schedule = EulerDiscrete::new(config)
        .and_then(|scheduler| scheduler.schedule(case.whole("steps").unwrap_or_default() as usize))
        .map_err(|error| miss(error.to_string()))?;
    let mut stages = vec![
        stage("sigmas", numbers(&schedule.sigmas)?),
        stage("timesteps", numbers(&schedule.timesteps)?),
        stage("init_noise_sigma", numbers(&[schedule.init_noise_sigma])?),
    ];
    if Golden::has(case, "sample") {
        let (sample, prediction) = (golden.input(case, "sample")?, golden.input(case, "prediction")?);
        stages.push(stage("scaled", schedule.scale_model_input(0, &sample)?));
        stages.push(stage("stepped", schedule.step(0, &sample, &prediction)?));
    }
    Ok(stages)
}

/// Bytes (height, width) or (height, width, channels) as a picture.
pub(super) fn decoded(bytes: &Tensor) -> Result<DynamicImage> {
    let (height, width, channels) = match bytes.dims() {
        &[height, width] => (height, width, 1),
        &[height, width, channels] => (height, width, channels),
        other => return Err(miss(format!("an image of shape {other:?}"))),
    };
    let (width, height) = (width as u32, height as u32);
    let raw = bytes.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    match channels {
        1 => GrayImage::from_raw(width, height, raw).map(DynamicImage::ImageLuma8),
        3 => RgbImage::from_raw(width, height, raw).map(DynamicImage::ImageRgb8),
        4 => RgbaImage::from_raw(width, height, raw).map(DynamicImage::ImageRgba8),
        _ => None,
    }
    .ok_or_else(|| miss(format!("an image of {channels} channels")))
}

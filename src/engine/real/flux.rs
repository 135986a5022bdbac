//! FLUX, stop by stop: all prompts of a job through the encoders, then one picture a run.
//!
//! Arithmetic is [`crate::models::flux::pipeline`]'s; here is which net is at hand for it.

use image::{DynamicImage, RgbImage};

use super::fault::{Condition, Fault};
use super::itinerary::Act;
use super::journey::Journey;
use super::known::KnownPrompts;
use super::nets::FluxNets;
use super::runs::FluxRun;
use super::watch::{Progress, StepWatch};
use crate::input::Plan;
use crate::models::PipelineError;
use crate::models::flux::pipeline::{
    Conditioning, Denoiser, Prompt, Start, decode, denoise, prepare, prepare_noise, timesteps,
};
use crate::models::flux::{Conditioner, warm};
use crate::progress::SubStep;

/// T5 tokens of FLUX.1-dev; the distilled schnell was trained on half as many.
const DEV_WORDS: usize = 512;
const SCHNELL_WORDS: usize = 256;

/// A run with everything that the text encoders and the conditioner had to say about it, or why they could not.
pub type Read = (SubStep, Result<ReadRun, Fault>);

/// A run that can be painted.
pub struct ReadRun {
    run: FluxRun,
    /// One for each of the run's prompts.
    prompts: Vec<Conditioning>,
    negative: Option<(f64, Conditioning)>,
}

/// Reads the prompts of `runs`, as part of `sub_step`, the first that paints with FLUX. What is wrong with one of the later
/// runs is that run's to tell: step 3 must not fail step 1.
pub fn read(
    journey: &mut Journey<'_>,
    nets: &FluxNets,
    known: &mut KnownPrompts,
    plan: &Plan,
    runs: &[FluxRun],
    sub_step: SubStep,
) -> Result<Vec<Read>, Fault> {
    let words = if nets.guidance { DEV_WORDS } else { SCHNELL_WORDS };
    let cell = 2 * nets.vae_config.shrink() as u32;
    let (rows, columns) = ((plan.height / cell) as usize, (plan.width / cell) as usize);
    let size = (words, rows, columns);
    warm(&nets.transformer_config, size, nets.dtype, nets.in_eight, journey.device());
    // Every run's prompts in a row, each followed by what to avoid.
    let texts: Vec<&str> = runs.iter().flat_map(FluxRun::texts).collect();
    read_unknown(journey, nets, known, &texts, words, sub_step)?;
    for text in &texts {
        let dropped = nets.t5_tokenizer.encode(text, words)?.dropped;
        if dropped > 0 {
            journey.warnings.push(format!(
                "a prompt of {} characters is {dropped} tokens longer than the {words} that FLUX reads; its end was left out",
                text.chars().count()
            ));
        }
    }
    let prompts = texts
        .iter()
        .map(|text| known.get(text, journey.device())?.ok_or_else(unread))
        .collect::<Result<Vec<Prompt>, Fault>>()?;
    journey.visit(sub_step, Act::Tables, |journey| {
        let conditioner = journey.lease(nets.conditioner)?;
        let mut rest = prompts.as_slice();
        let mut read: Vec<Read> = Vec::with_capacity(runs.len());
        for run in runs {
            journey.check()?;
            let (own, others) = rest
                .split_at_checked(run.prompts.len() + usize::from(run.negative.is_some()))
                .ok_or_else(unread)?;
            rest = others;
            let result = condition(nets, &conditioner, plan, run, own);
            match result {
                Err(fault) if fault.condition() != Condition::Sound => return Err(fault),
                result => read.push((run.sub_step, result)),
            }
        }
        Ok(read)
    })
}

/// Reads those of `texts` that are not known, each once.
fn read_unknown(
    journey: &mut Journey<'_>,
    nets: &FluxNets,
    known: &mut KnownPrompts,
    texts: &[&str],
    words: usize,
    sub_step: SubStep,
) -> Result<(), Fault> {
    let unknown = known.unknown(texts);
    if unknown.is_empty() {
        return Ok(());
    }
    let pooled = journey.visit(sub_step, Act::ReadPooled, |journey| {
        let clip = journey.lease(nets.clip)?;
        let mut pooled = Vec::with_capacity(unknown.len());
        for text in &unknown {
            journey.check()?;
            pooled.push(clip.forward(&[nets.clip_tokenizer.encode(text)?.ids])?.pooled);
        }
        Ok(pooled)
    })?;
    let embeds = journey.visit(sub_step, Act::ReadWords, |journey| {
        let t5 = journey.lease(nets.t5)?;
        let mut embeds = Vec::with_capacity(unknown.len());
        for text in &unknown {
            journey.check()?;
            embeds.push(t5.forward(&[nets.t5_tokenizer.encode(text, words)?.ids])?);
        }
        Ok(embeds)
    })?;
    for (text, (embeds, pooled)) in unknown.iter().zip(embeds.into_iter().zip(pooled)) {
        known.keep(text, &Prompt { embeds, pooled })?;
    }
    Ok(())
}

/// The tables of one run from its prompts, what to avoid last.
fn condition(
    nets: &FluxNets,
    conditioner: &Conditioner,
    plan: &Plan,
    run: &FluxRun,
    prompts: &[Prompt],
) -> Result<ReadRun, Fault> {
    let times = timesteps(&nets.vae_config, &nets.scheduler, &run.settings(plan), run.strength)?;
    let mut tables = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        tables.push(Conditioning::new(conditioner, prompt, run.guidance as f32, &times)?);
    }
    let negative = match &run.negative {
        Some((scale, _)) => Some((*scale, tables.pop().ok_or_else(unread)?)),
        None => None,
    };
    Ok(ReadRun { run: run.clone(), prompts: tables, negative })
}

fn unread() -> Fault {
    Fault::Defect("a prompt was not read".to_owned())
}

/// The picture and the mask that an inpainting starts from; bright is painted anew.
pub struct Draft<'a> {
    /// The plan's size.
    pub image: &'a RgbImage,
    /// Likewise.
    pub mask: &'a image::GrayImage,
}

/// Paints `run` with the prompt number `prompt`, from noise or from a draft.
pub fn paint(
    journey: &mut Journey<'_>,
    nets: &FluxNets,
    plan: &Plan,
    run: &ReadRun,
    prompt: usize,
    draft: Option<&Draft<'_>>,
    progress: &Progress<'_>,
) -> Result<RgbImage, Fault> {
    let FluxRun { sub_step, strength, .. } = run.run;
    let settings = run.run.settings(plan);
    let device = journey.device();
    let prepared = match (draft, strength) {
        (Some(draft), Some(strength)) => {
            let image = DynamicImage::ImageRgb8(draft.image.clone());
            let mask = DynamicImage::ImageLuma8(draft.mask.clone());
            journey.visit(sub_step, Act::Encode, |journey| {
                let vae = journey.lease(nets.vae)?;
                let start = Start::Inpaint { image: &image, mask: &mask, strength };
                Ok(prepare(&vae, &nets.scheduler, &settings, &start, nets.dtype, device)?)
            })?
        }
        _ => prepare_noise(&nets.vae_config, &nets.scheduler, &settings, nets.dtype, device)?,
    };
    let towards = run
        .prompts
        .get(prompt)
        .ok_or_else(|| Fault::Defect(format!("{sub_step}: prompt {prompt} of {}", run.prompts.len())))?;
    let latents = journey.visit(sub_step, Act::Denoise, |journey| {
        let transformer = journey.lease(nets.transformer)?;
        let denoiser = Denoiser::conditioned(&transformer, towards.clone(), run.negative.clone());
        Ok(denoise(&denoiser, &prepared, &mut StepWatch(progress))?)
    })?;
    let (width, height) = (prepared.width, prepared.height);
    drop(prepared);
    journey.visit(sub_step, Act::Decode, |journey| {
        let vae = journey.lease(nets.vae)?;
        one(decode(&vae, &latents, width, height)?)
    })
}

/// The only picture of a batch of one.
pub fn one(pictures: Vec<RgbImage>) -> Result<RgbImage, Fault> {
    let none = || PipelineError::Unfit("the VAE decoded no picture".to_owned());
    Ok(pictures.into_iter().next().ok_or_else(none)?)
}

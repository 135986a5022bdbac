//! SDXL, stop by stop: prompts, denoising with or without a ControlNet, pixels.
//!
//! Arithmetic is [`crate::models::sdxl::pipeline`]'s; here is which net is at hand for it.

use image::{DynamicImage, RgbImage};

use super::fault::Fault;
use super::flux::one;
use super::itinerary::Act;
use super::journey::Journey;
use super::nets::SdxlNets;
use super::watch::{Progress, StepWatch};
use crate::memory::Handle;
use crate::models::sdxl::ControlNet;
use crate::models::sdxl::pipeline::{
    Control, Denoiser, Framing, Guidance, Prompt, Settings, decode, denoise, encode, prepare,
};
use crate::progress::SubStep;

/// One picture.
pub struct SdxlRun<'a> {
    /// What it is for.
    pub sub_step: SubStep,
    /// What to paint.
    pub prompt: &'a str,
    /// What to avoid; acts with a guidance above 1.
    pub negative: &'a str,
    /// Classifier-free guidance.
    pub guidance: f64,
    /// Size, steps, seed.
    pub settings: Settings,
    /// The shapes to follow, and how closely.
    pub control: Option<(Handle<ControlNet>, &'a DynamicImage, f64)>,
}

/// Paints it.
pub fn paint(
    journey: &mut Journey<'_>,
    nets: &SdxlNets,
    run: &SdxlRun<'_>,
    progress: &Progress<'_>,
) -> Result<RgbImage, Fault> {
    let SdxlRun { sub_step, settings, .. } = run;
    let device = journey.device();
    let guided = run.guidance > 1.0;
    let (prompt, negative) = journey.visit(*sub_step, Act::Read, |journey| {
        let prompt = read(journey, nets, run.prompt)?;
        let negative = guided.then(|| read(journey, nets, run.negative)).transpose()?;
        Ok((prompt, negative))
    })?;
    let guidance = Guidance {
        prompt: &prompt,
        negative: negative.as_ref().map(|negative| (run.guidance, negative)),
        framing: Framing::whole(settings.width, settings.height),
    };
    let prepared = prepare(&nets.vae_config, &nets.scheduler, settings, nets.dtype, device)?;
    let latents = journey.visit(*sub_step, Act::Denoise, |journey| {
        let unet = journey.lease(nets.unet)?;
        let control = match &run.control {
            Some((handle, image, scale)) => {
                let control = Control { image, scale: *scale, start: 0.0, end: 1.0 };
                Some((journey.lease(*handle)?, control))
            }
            None => None,
        };
        let control = control.as_ref().map(|(net, control)| (&**net, *control));
        let denoiser = Denoiser::new(&unet, &guidance, control, &prepared)?;
        Ok(denoise(&denoiser, &prepared, &mut StepWatch(progress))?)
    })?;
    drop(prepared);
    journey.visit(*sub_step, Act::Decode, |journey| {
        let vae = journey.lease(nets.vae)?;
        one(decode(&vae, &latents)?)
    })
}

fn read(journey: &mut Journey<'_>, nets: &SdxlNets, text: &str) -> Result<Prompt, Fault> {
    journey.check()?;
    let [first, second] = &nets.tokenizers;
    let (first, second) = (first.encode(text)?, second.encode(text)?);
    if first.dropped > 0 {
        journey.warnings.push(format!(
            "a prompt of {} characters is {} tokens longer than the {} that SDXL reads; its end was left out",
            text.chars().count(),
            first.dropped,
            first.ids.len()
        ));
    }
    let [clip_l, clip_g] = &nets.encoders;
    let (clip_l, clip_g) = (journey.lease(*clip_l)?, journey.lease(*clip_g)?);
    Ok(encode(&clip_l, &clip_g, &[first.ids], &[second.ids])?)
}

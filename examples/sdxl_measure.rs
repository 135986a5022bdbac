//! Runs SDXL with a ControlNet on prepared inputs and leaves every stage's tensors, times and peak memory for a comparison:
//!
//! ```sh
//! cargo run --release --features cuda --example sdxl_measure -- MODEL CONTROLNET REQUEST.safetensors RESULT.safetensors
//! ```
//!
//! `REQUEST` holds `clip_ids`, `clip_2_ids` and their `negative_…` twins (1, tokens); `prompt_embeds` (1, words, channels),
//! `pooled` (1, channels) and their `negative_…` twins; `control` (height, width, 3) bytes; `sample` (2, channels, h, w);
//! `noise` and `decode_latents` (1, channels, h, w); in its metadata `width`, `height`, `steps`, `guidance`, `control_scale`
//! and `timestep`. One prediction is made of `sample` at `timestep` from the given embeddings, without (`plain`) and with
//! (`prediction`) the ControlNet, so that it differs from another program's by those nets alone; `decoded` is made of
//! `decode_latents`; the picture is made from ids and `noise`. The times are printed as JSON. `DEVICE` and `DTYPE` as everywhere.
//! `scripts/gpu/compare_sdxl.py` calls this.

mod measure;

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, RgbImage};
use marquee::models::checkpoint::{Caches, SdxlCheckpoint, SdxlControlNet};
use marquee::models::image_processor::control_to_tensor;
use marquee::models::schedulers::EulerDiscrete;
use marquee::models::sdxl::pipeline::{
    Control, Denoiser, Framing, Guidance, Settings, Watch, decode, denoise, encode, prepare,
};
use marquee::models::sdxl::{ControlNet, Unet};
use marquee::models::text_encoders::clip::ClipText;
use marquee::models::vae::Vae;
use measure::{Clock, Marks, Outcome, Peak, Request, Results, arguments, place};
use serde_json::json;

fn main() -> Outcome<()> {
    let usage = "sdxl_measure MODEL CONTROLNET REQUEST.safetensors RESULT.safetensors";
    let [model, controlnet, request, result] = arguments(usage)?;
    let (target, dtype) = place()?;
    let mut peak = Peak::start(target);
    let mut clock = Clock::start();
    let device = target.open()?;
    clock.lap("open_device", &device)?;
    Peak::stage(&mut peak, "context");
    let request = Request::read(&request)?;
    let checkpoint = SdxlCheckpoint::open(&model, None, &Caches::default())?;
    let controlnet = SdxlControlNet::open(&controlnet, &Caches::default())?;
    let mut out = Results::default();
    clock.lap("open_checkpoint", &device)?;

    let clip = |net: &marquee::models::checkpoint::NetFiles<_>| {
        ClipText::new(&net.config, &net.weights(dtype, &device))
    };
    let (first, second) = (clip(&checkpoint.text_encoder)?, clip(&checkpoint.text_encoder_2)?);
    clock.lap("load_text_encoders", &device)?;
    let read = |prefix: &str| -> Outcome<_> {
        let ids = |name: &str| request.ids(&format!("{prefix}{name}"));
        Ok(encode(&first, &second, &ids("clip_ids")?, &ids("clip_2_ids")?)?)
    };
    drop((read("")?, read("negative_")?));
    clock.lap("encode_first", &device)?;
    let (positive, negative) = (read("")?, read("negative_")?);
    clock.lap("encode", &device)?;
    out.insert("prompt_embeds", positive.embeds.clone());
    out.insert("pooled", positive.pooled.clone());
    drop((first, second));
    Peak::stage(&mut peak, "text_encoders");

    let unet = Unet::new(&checkpoint.unet.config, &checkpoint.unet.weights(dtype, &device))?;
    let net = ControlNet::new(&controlnet.config, &controlnet.weights(dtype, &device))?;
    clock.lap("load_unet_and_controlnet", &device)?;
    let (width, height) = (request.field("width")?, request.field("height")?);
    let control_scale: f64 = request.field("control_scale")?;
    let picture = picture(request.tensor("control")?)?;

    let shared = |name: &str| -> Outcome<Tensor> {
        let both = [request.tensor(&format!("negative_{name}"))?, request.tensor(name)?];
        Ok(Tensor::cat(&both, 0)?.to_device(&device)?.to_dtype(dtype)?)
    };
    let (text, pooled) = (shared("prompt_embeds")?, shared("pooled")?);
    let ids = vec![Framing::whole(width, height).ids(); 2];
    let sample = request.tensor("sample")?.to_device(&device)?.to_dtype(dtype)?;
    let timestep = request.field("timestep")?;
    let hint = net.hint(&control_to_tensor(&picture, width, height, &device)?.to_dtype(dtype)?)?;
    let told = unet.condition(&text, &pooled, &ids)?;
    out.insert("plain", unet.forward(&sample, timestep, &told, None)?);
    let controlled = net.condition(&text, &pooled, &ids)?;
    let residuals = net.forward(&sample, timestep, &controlled, &hint, control_scale)?;
    out.insert("middle", residuals.middle()?);
    out.insert("prediction", unet.forward(&sample, timestep, &told, Some(&residuals))?);
    drop(residuals);
    drop((controlled, hint, told));
    clock.lap("first_predictions", &device)?;
    Peak::stage(&mut peak, "load_and_first_predictions");

    let settings = Settings { width, height, steps: request.field("steps")?, seed: 0 };
    let scheduler = EulerDiscrete::new(checkpoint.scheduler.clone())?;
    let mut prepared = prepare(&checkpoint.vae.config, &scheduler, &settings, dtype, &device)?;
    let noise = request.tensor("noise")?.to_device(&device)?.to_dtype(dtype)?;
    prepared.latents = prepared.schedule.start(&noise)?;
    let guidance = Guidance {
        prompt: &positive,
        negative: Some((request.field("guidance")?, &negative)),
        framing: Framing::whole(width, height),
    };
    let control = Control { image: &picture, scale: control_scale, start: 0.0, end: 1.0 };
    let denoiser = Denoiser::new(&unet, &guidance, Some((&net, control)), &prepared)?;
    clock.lap("prepare", &device)?;
    let mut steps = Steps(Marks::new(&device));
    let latents = denoise(&denoiser, &prepared, &mut steps)?;
    clock.lap("denoise", &device)?;
    let milliseconds = steps.0.milliseconds;
    Peak::stage(&mut peak, "denoise");
    drop(denoiser);
    drop((unet, net));

    let vae_dtype = checkpoint.vae.config.safe_dtype(dtype);
    let vae = Vae::new(&checkpoint.vae.config, &checkpoint.vae.weights(vae_dtype, &device))?;
    clock.lap("load_vae", &device)?;
    let given = request.tensor("decode_latents")?.to_device(&device)?.to_dtype(vae_dtype)?;
    let given = vae.unscale(&given)?;
    drop(vae.decode(&given)?);
    clock.lap("decode_first", &device)?;
    out.insert("decoded", vae.decode(&given)?);
    clock.lap("decode", &device)?;
    let image = decode(&vae, &latents)?.swap_remove(0);
    Peak::stage(&mut peak, "vae");
    out.insert("latents", latents);
    let shape = (image.height() as usize, image.width() as usize, 3);
    out.insert("image", Tensor::from_vec(image.into_raw(), shape, &Device::Cpu)?);
    out.write(&result)?;
    let report = json!({
        "device": target.to_string(),
        "dtype": dtype.as_str(),
        "milliseconds": clock.laps(),
        "step_milliseconds": milliseconds,
        "peak_bytes": Peak::stages(peak),
    });
    println!("{report}");
    Ok(())
}

struct Steps<'a>(Marks<'a>);

impl Watch for Steps<'_> {
    fn step(&mut self, _: u32, _: u32, _: &Tensor) -> ControlFlow<()> {
        self.0.mark();
        ControlFlow::Continue(())
    }
}

/// Bytes (height, width, 3).
fn picture(bytes: &Tensor) -> Outcome<DynamicImage> {
    let (height, width, _) = bytes.dims3()?;
    let raw = bytes.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    let picture =
        RgbImage::from_raw(width as u32, height as u32, raw).ok_or("control: expected three channels")?;
    Ok(DynamicImage::ImageRgb8(picture))
}

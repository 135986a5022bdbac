//! Runs a FLUX checkpoint on prepared token ids and leaves every stage's tensors and times for a comparison:
//!
//! ```sh
//! cargo run --release --features cuda --example flux_measure -- MODEL REQUEST.safetensors RESULT.safetensors
//! ```
//!
//! `REQUEST` holds `clip_ids` and `t5_ids` (1, tokens), `prompt_embeds` (1, words, channels), `pooled` (1, channels) and
//! the packed `latents` to start from, and in its metadata `width`, `height`, `steps`, `guidance` and `seed`. One prediction is made from `prompt_embeds` and
//! `pooled`, so that it differs from another program's by the transformer alone; the picture is made from the ids.
//! `RESULT` gets `prompt_embeds`, `pooled`, `noise`, `prediction`, `latents` and `image`; the times are printed as JSON.
//! `DEVICE` and `DTYPE` as everywhere; `QUANTIZATION` keeps the transformer's blocks in `fp8` or `int8`. `scripts/gpu/compare_flux.py` calls this.

mod measure;

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use marquee::models::checkpoint::{Caches, FluxCheckpoint, Replacements};
use marquee::models::device;
use marquee::models::flux::pipeline::{
    Denoiser, Guidance, Settings, Start, Watch, decode, denoise, encode, prepare,
};
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::schedulers::FlowMatch;
use marquee::models::text_encoders::clip::ClipText;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::vae::Vae;
use measure::{Clock, Marks, Outcome, Peak, Results, arguments, place};
use serde_json::json;

fn main() -> Outcome<()> {
    let [model, request, result] = arguments("flux_measure MODEL REQUEST.safetensors RESULT.safetensors")?;
    let (target, dtype) = place()?;
    let mut peak = Peak::start(target);
    let mut clock = Clock::start();
    let device = target.open()?;
    clock.lap("open_device", &device)?;
    Peak::stage(&mut peak, "context");
    let request = Request::read(&request, &device)?;
    let checkpoint = FluxCheckpoint::open(&model, &Replacements::default(), &Caches::default())?;
    clock.lap("open_checkpoint", &device)?;
    let mut out = Results::default();

    let clip =
        ClipText::new(&checkpoint.text_encoder.config, &checkpoint.text_encoder.weights(dtype, &device))?;
    let t5 = T5Encoder::new(
        &checkpoint.text_encoder_2.config,
        &checkpoint.text_encoder_2.weights(dtype, &device),
    )?;
    clock.lap("load_text_encoders", &device)?;
    let prompt = encode(&clip, &t5, &request.clip_ids, &request.t5_ids)?;
    clock.lap("encode_first", &device)?;
    let prompt = {
        drop(prompt);
        encode(&clip, &t5, &request.clip_ids, &request.t5_ids)?
    };
    clock.lap("encode", &device)?;
    drop((clip, t5));
    Peak::stage(&mut peak, "text_encoders");
    out.insert("prompt_embeds", prompt.embeds.clone());
    out.insert("pooled", prompt.pooled.clone());

    let weights = checkpoint.transformer.weights(dtype, &device);
    let config = &checkpoint.transformer.config;
    let conditioner = Conditioner::new(config, &weights)?;
    let eight = std::env::var("QUANTIZATION").map_or(Ok(None), |text| device::quantisation(&text))?;
    let transformer = Transformer::new(config, &weights.in_eight(eight))?;
    clock.lap("load_transformer", &device)?;
    let vae_dtype = checkpoint.vae.config.safe_dtype(dtype);
    let vae = Vae::new(&checkpoint.vae.config, &checkpoint.vae.weights(vae_dtype, &device))?;
    clock.lap("load_vae", &device)?;

    let scheduler = FlowMatch::new(checkpoint.scheduler.clone())?;
    let mut prepared = prepare(&vae, &scheduler, &request.settings, &Start::Noise, dtype, &device)?;
    out.insert("noise", prepared.latents.clone());
    // A rounded draw differs from an exact one by as much as a whole bf16 prediction errs.
    prepared.latents = request.latents.to_dtype(dtype)?;
    let (embeds, pooled) = (request.prompt_embeds.to_dtype(dtype)?, request.pooled.to_dtype(dtype)?);
    let modulation = conditioner.precompute(&prepared.timesteps()[..1], request.guidance, &pooled)?;
    let rope = transformer.rope(embeds.dim(1)?, prepared.rows, prepared.columns, &device)?;
    clock.lap("prepare", &device)?;
    let prediction =
        transformer.forward(&prepared.latents, &embeds, modulation.step(0), &rope, &mut |_| Ok(()))?;
    out.insert("prediction", prediction);
    clock.lap("first_prediction", &device)?;

    let guidance = Guidance { scale: request.guidance, prompt: &prompt, negative: None };
    let denoiser = Denoiser::new(&transformer, &conditioner, &guidance, prepared.timesteps())?;
    drop(conditioner);
    clock.lap("modulation_of_all_steps", &device)?;
    Peak::stage(&mut peak, "load_and_first_prediction");
    let mut steps = Steps(Marks::new(&device));
    let latents = denoise(&denoiser, &prepared, &mut steps)?;
    clock.lap("denoise", &device)?;
    let milliseconds = steps.0.milliseconds;
    Peak::stage(&mut peak, "denoise");
    drop(decode(&vae, &latents, prepared.width, prepared.height)?);
    clock.lap("decode_first", &device)?;
    let image = decode(&vae, &latents, prepared.width, prepared.height)?.swap_remove(0);
    clock.lap("decode", &device)?;
    out.insert("latents", latents);
    let shape = (image.height() as usize, image.width() as usize, 3);
    out.insert("image", Tensor::from_vec(image.into_raw(), shape, &Device::Cpu)?);

    Peak::stage(&mut peak, "vae");
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

struct Request {
    clip_ids: Vec<Vec<u32>>,
    t5_ids: Vec<Vec<u32>>,
    prompt_embeds: Tensor,
    pooled: Tensor,
    latents: Tensor,
    guidance: f32,
    settings: Settings,
}

impl Request {
    fn read(path: &str, device: &Device) -> Outcome<Self> {
        let file = measure::Request::read(path)?;
        let tensor = |name: &str| -> Outcome<Tensor> { Ok(file.tensor(name)?.to_device(device)?) };
        Ok(Self {
            clip_ids: file.ids("clip_ids")?,
            t5_ids: file.ids("t5_ids")?,
            prompt_embeds: tensor("prompt_embeds")?,
            pooled: tensor("pooled")?,
            latents: tensor("latents")?,
            guidance: file.field("guidance")?,
            settings: Settings {
                width: file.field("width")?,
                height: file.field("height")?,
                steps: file.field("steps")?,
                seed: file.field("seed")?,
            },
        })
    }
}

struct Steps<'a>(Marks<'a>);

impl Watch for Steps<'_> {
    fn step(&mut self, _: u32, _: u32, _: &Tensor) -> ControlFlow<()> {
        self.0.mark();
        ControlFlow::Continue(())
    }
}

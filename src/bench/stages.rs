//! The stages: each makes its nets, then runs them round after round on inputs that differ.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Result as NetResult, Tensor};
use image::{DynamicImage, GrayImage, Luma};

use super::clock::Clock;
use super::work::{self, Work};
use super::{Bench, BenchError};
use crate::models::birefnet::BiRefNet;
use crate::models::checkpoint::NetFiles;
use crate::models::flux::pipeline as flux;
use crate::models::flux::{Conditioner, Transformer};
use crate::models::ops::Rounding;
use crate::models::schedulers::{EulerDiscrete, FlowMatch};
use crate::models::sdxl::pipeline as sdxl;
use crate::models::sdxl::{ControlNet, TIME_IDS, Unet};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::T5Encoder;
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::random_tensor;

/// CLIP's tokens, all of which are always used.
const CLIP_WORDS: usize = 77;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// One denoise step of FLUX, schedule included; text, modulation and rotary tables are ready.
    FluxStep,
    /// One denoise step of SDXL with a ControlNet, with and without the prompt in one batch, schedule included.
    SdxlControlnetStep,
    /// FLUX's latents to pixels.
    VaeDecode,
    /// Pixels to FLUX's latents.
    VaeEncode,
    /// SDXL's latents to pixels.
    SdxlVaeDecode,
    /// A prompt through T5.
    T5,
    /// A prompt through CLIP-L.
    Clip,
    /// A prompt through bigG.
    ClipBigG,
    /// A normalised picture to logits.
    BiRefNet,
}

impl Stage {
    /// All, the largest first.
    pub const ALL: [Self; 9] = [
        Self::FluxStep,
        Self::SdxlControlnetStep,
        Self::VaeDecode,
        Self::VaeEncode,
        Self::SdxlVaeDecode,
        Self::T5,
        Self::Clip,
        Self::ClipBigG,
        Self::BiRefNet,
    ];

    /// On the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::FluxStep => "flux-step",
            Self::SdxlControlnetStep => "sdxl-controlnet-step",
            Self::VaeDecode => "vae-decode",
            Self::VaeEncode => "vae-encode",
            Self::SdxlVaeDecode => "sdxl-vae-decode",
            Self::T5 => "t5",
            Self::Clip => "clip",
            Self::ClipBigG => "clip-bigg",
            Self::BiRefNet => "birefnet",
        }
    }
}

/// What the clock does not know.
pub(super) struct Ran {
    pub(super) dtype: DType,
    pub(super) build_ms: Option<f64>,
    pub(super) flops: Option<f64>,
    pub(super) bytes: Option<f64>,
    /// Whether the device's ceilings apply: a copy or a read is bound by others, and products of two formats by two.
    pub(super) on_device: bool,
    pub(super) quantisation: Option<Rounding>,
}

impl Ran {
    fn new(dtype: DType, build_ms: f64, work: &Work) -> Self {
        Self {
            dtype,
            build_ms: Some(build_ms),
            flops: Some(work.flops),
            bytes: Some(work.weights * dtype.size_in_bytes() as f64),
            on_device: true,
            quantisation: None,
        }
    }

    /// With matrices in 8 bits: the bytes are not those of `dtype`.
    fn in_eight(self, quantisation: Rounding) -> Self {
        Self { bytes: None, on_device: false, quantisation: Some(quantisation), ..self }
    }
}

pub(super) fn run(stage: Stage, bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    match stage {
        Stage::FluxStep => flux_step(bench, clock),
        Stage::SdxlControlnetStep => sdxl_step(bench, clock),
        Stage::VaeDecode => {
            let dtype = bench.dtype(DType::BF16);
            decode(bench, clock, &bench.flux(dtype)?.vae, dtype)
        }
        Stage::VaeEncode => encode(bench, clock),
        Stage::SdxlVaeDecode => {
            let dtype = bench.dtype(DType::F16);
            decode(bench, clock, &bench.sdxl(dtype)?.vae, dtype)
        }
        Stage::T5 => t5(bench, clock),
        Stage::Clip => {
            let dtype = bench.dtype(DType::BF16);
            clip(bench, clock, &bench.flux(dtype)?.clip, dtype)
        }
        Stage::ClipBigG => {
            let dtype = bench.dtype(DType::F16);
            clip(bench, clock, &bench.sdxl(dtype)?.clip_big_g, dtype)
        }
        Stage::BiRefNet => birefnet(bench, clock),
    }
}

/// Runs the rounds: `input` is made before the clock starts.
fn rounds<I>(
    bench: &Bench<'_>,
    clock: &mut Clock,
    input: impl Fn(u64) -> NetResult<I>,
    run: impl Fn(&I) -> NetResult<Tensor>,
) -> Result<(), BenchError> {
    for round in 0..bench.rounds() {
        let input = input(bench.round_seed(round))?;
        clock.begin()?;
        let output = run(&input)?;
        clock.end()?;
        drop(output);
    }
    Ok(())
}

/// Milliseconds since `begun`, once the device has finished.
fn built(bench: &Bench<'_>, begun: Instant) -> NetResult<f64> {
    bench.device.synchronize()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// A denoise loop's steps are the rounds.
struct Steps<'a> {
    clock: &'a mut Clock,
    failed: Option<candle_core::Error>,
}

impl Steps<'_> {
    fn tick(&mut self, done: u32, total: u32) -> ControlFlow<()> {
        let ended = if done > 0 { self.clock.end() } else { Ok(()) };
        let begun = ended.and_then(|()| if done < total { self.clock.begin() } else { Ok(()) });
        match begun {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// The loop's result, unless the clock has a reason of its own.
    fn result<T, E>(self, result: Result<T, E>) -> Result<(), BenchError>
    where
        BenchError: From<E>,
    {
        match self.failed {
            Some(error) => Err(error.into()),
            None => Ok(result.map(drop)?),
        }
    }
}

impl flux::Watch for Steps<'_> {
    fn step(&mut self, done: u32, total: u32, _: &Tensor) -> ControlFlow<()> {
        self.tick(done, total)
    }
}

impl sdxl::Watch for Steps<'_> {
    fn step(&mut self, done: u32, total: u32, _: &Tensor) -> ControlFlow<()> {
        self.tick(done, total)
    }
}

fn flux_step(bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    let (settings, device) = (bench.settings, &bench.device);
    let dtype = bench.dtype(DType::BF16);
    let begun = Instant::now();
    let files = bench.flux(dtype)?;
    let config = files.transformer.config;
    let weights = crate::models::weights::Weights::new(files.transformer.source, dtype, device);
    let conditioner = Conditioner::new(&config, &weights)?;
    let transformer = Transformer::new(&config, &weights.in_eight(settings.quantisation))?;
    drop(weights);
    let build_ms = built(bench, begun)?;

    let request = flux::Settings {
        width: settings.width,
        height: settings.height,
        steps: bench.rounds() as u32,
        seed: settings.seed,
    };
    // The start is noise, for which only the VAE's configuration matters.
    let vae = Vae::new(&files.vae.config, &files.vae.weights(dtype, device))?;
    let scheduler = FlowMatch::new(files.scheduler)?;
    let prepared = flux::prepare(&vae, &scheduler, &request, &flux::Start::Noise, dtype, device)?;
    drop(vae);
    let prompt = flux::Prompt {
        embeds: random_tensor(
            bench.round_seed(0),
            (1, settings.words, config.joint_attention_dim),
            dtype,
            device,
        )?,
        pooled: random_tensor(bench.round_seed(1), (1, config.pooled_projection_dim), dtype, device)?,
    };
    let guidance = flux::Guidance { scale: 3.5, prompt: &prompt, negative: None };
    let denoiser = flux::Denoiser::new(&transformer, &conditioner, &guidance, prepared.timesteps())?;
    drop(conditioner);
    let mut steps = Steps { clock, failed: None };
    let result = flux::denoise(&denoiser, &prepared, &mut steps);
    steps.result(result)?;
    let work = work::flux(&config, prepared.rows * prepared.columns, settings.words)?;
    let ran = Ran::new(dtype, build_ms, &work);
    Ok(match settings.quantisation {
        Some(quantisation) => ran.in_eight(quantisation),
        None => ran,
    })
}

fn sdxl_step(bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    let (settings, device) = (bench.settings, &bench.device);
    let dtype = bench.dtype(DType::F16);
    let begun = Instant::now();
    let files = bench.sdxl(dtype)?;
    let unet = Unet::new(&files.unet.config, &files.unet.weights(dtype, device))?;
    let controlnet = ControlNet::new(&files.controlnet.config, &files.controlnet.weights(dtype, device))?;
    let build_ms = built(bench, begun)?;

    let request = sdxl::Settings {
        width: settings.width,
        height: settings.height,
        steps: bench.rounds() as u32,
        seed: settings.seed,
    };
    let scheduler = EulerDiscrete::new(files.scheduler)?;
    let prepared = sdxl::prepare(&files.vae.config, &scheduler, &request, dtype, device)?;
    let trunk = &files.unet.config.trunk;
    let ids = TIME_IDS * trunk.addition_time_embed_dim.unwrap_or(0);
    let pooled = trunk.projection_class_embeddings_input_dim.unwrap_or(0).saturating_sub(ids);
    let prompt = |seed: u64| -> NetResult<sdxl::Prompt> {
        Ok(sdxl::Prompt {
            embeds: random_tensor(seed, (1, CLIP_WORDS, trunk.cross_attention_dim), dtype, device)?,
            pooled: random_tensor(seed + 1, (1, pooled), dtype, device)?,
        })
    };
    let (towards, away) = (prompt(bench.round_seed(0))?, prompt(bench.round_seed(2))?);
    let guidance = sdxl::Guidance {
        prompt: &towards,
        negative: Some((5.0, &away)),
        framing: sdxl::Framing::whole(settings.width, settings.height),
    };
    let edges = edges(settings.width, settings.height);
    let control = sdxl::Control { image: &edges, scale: 0.8, start: 0.0, end: 1.0 };
    let denoiser = sdxl::Denoiser::new(&unet, &guidance, Some((&controlnet, control)), &prepared)?;
    let mut steps = Steps { clock, failed: None };
    let result = sdxl::denoise(&denoiser, &prepared, &mut steps);
    steps.result(result)?;
    let (_, _, height, width) = prepared.latents.dims4()?;
    let work =
        work::sdxl(&files.unet.config, Some(&files.controlnet.config), 2, (height, width), CLIP_WORDS)?;
    Ok(Ran::new(dtype, build_ms, &work))
}

/// Thin lines on black.
fn edges(width: u32, height: u32) -> DynamicImage {
    let line =
        |x: u32, y: u32| u8::from((x + y).is_multiple_of(37) || (x * 2 + height - y).is_multiple_of(53));
    DynamicImage::ImageLuma8(GrayImage::from_fn(width, height, |x, y| Luma([line(x, y) * 255])))
}

/// A VAE in the dtype that its weights bear.
fn vae(
    bench: &Bench<'_>,
    files: &NetFiles<VaeConfig>,
    dtype: DType,
) -> Result<(Vae, DType, f64), BenchError> {
    let begun = Instant::now();
    let dtype = files.config.safe_dtype(dtype);
    let vae = Vae::new(&files.config, &files.weights(dtype, &bench.device))?;
    Ok((vae, dtype, built(bench, begun)?))
}

/// Height and width of latents.
fn latents(bench: &Bench<'_>, config: &VaeConfig) -> (usize, usize) {
    let shrink = config.shrink();
    (bench.settings.height as usize / shrink, bench.settings.width as usize / shrink)
}

fn decode(
    bench: &Bench<'_>,
    clock: &mut Clock,
    files: &NetFiles<VaeConfig>,
    dtype: DType,
) -> Result<Ran, BenchError> {
    let (vae, dtype, build_ms) = vae(bench, files, dtype)?;
    let (height, width) = latents(bench, &files.config);
    let shape = (1, files.config.latent_channels, height, width);
    let input = |seed| random_tensor(seed, shape, dtype, &bench.device);
    rounds(bench, clock, input, |latents| vae.decode(latents))?;
    Ok(Ran::new(dtype, build_ms, &work::vae_decode(&files.config, (height, width))?))
}

fn encode(bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    let dtype = bench.dtype(DType::BF16);
    let files = bench.flux(dtype)?.vae;
    let (vae, dtype, build_ms) = vae(bench, &files, dtype)?;
    let (height, width) = (bench.settings.height as usize, bench.settings.width as usize);
    let input =
        |seed| random_tensor(seed, (1, files.config.in_channels, height, width), dtype, &bench.device);
    rounds(bench, clock, input, |pictures| Ok(vae.encode(pictures)?.mode()))?;
    Ok(Ran::new(dtype, build_ms, &work::vae_encode(&files.config, latents(bench, &files.config))?))
}

/// Ids below `vocabulary`.
fn ids(seed: u64, count: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let mut state = seed;
    let mut next = || {
        // Knuth's MMIX; the upper bits are the good ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % vocabulary.max(1) as u64) as u32
    };
    vec![(0..count).map(|_| next()).collect()]
}

fn t5(bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    let dtype = bench.dtype(DType::BF16);
    let begun = Instant::now();
    let files = bench.flux(dtype)?.t5;
    let net = T5Encoder::new(&files.config, &files.weights(dtype, &bench.device))?;
    let build_ms = built(bench, begun)?;
    let words = bench.settings.words;
    rounds(bench, clock, |seed| Ok(ids(seed, words, files.config.vocab_size)), |ids| net.forward(ids))?;
    Ok(Ran::new(dtype, build_ms, &work::t5(&files.config, words)?))
}

fn clip(
    bench: &Bench<'_>,
    clock: &mut Clock,
    files: &NetFiles<ClipConfig>,
    dtype: DType,
) -> Result<Ran, BenchError> {
    let begun = Instant::now();
    let net = ClipText::new(&files.config, &files.weights(dtype, &bench.device))?;
    let build_ms = built(bench, begun)?;
    let input = |seed| Ok(ids(seed, CLIP_WORDS, files.config.vocab_size));
    rounds(bench, clock, input, |ids| Ok(net.forward(ids)?.pooled))?;
    Ok(Ran::new(dtype, build_ms, &work::clip(&files.config, CLIP_WORDS)?))
}

fn birefnet(bench: &Bench<'_>, clock: &mut Clock) -> Result<Ran, BenchError> {
    let dtype = bench.dtype(DType::F16);
    let begun = Instant::now();
    let files = bench.birefnet(dtype)?;
    let net = BiRefNet::new(&files.config, &files.weights(dtype, &bench.device))?;
    let build_ms = built(bench, begun)?;
    let (height, width) = (bench.settings.height as usize, bench.settings.width as usize);
    let input = |seed| random_tensor(seed, (1, 3, height, width), dtype, &bench.device);
    rounds(bench, clock, input, |picture| net.logits(picture, &mut |_| Ok(())))?;
    Ok(Ran::new(dtype, build_ms, &work::birefnet(&files.config, (height, width))?))
}

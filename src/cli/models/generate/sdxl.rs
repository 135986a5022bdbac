//! SDXL, alone and steered by a ControlNet.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::Tensor;
use indicatif::ProgressBar;

use super::{On, open, save_rgb};
use crate::config::ModelConfig;
use crate::models::checkpoint::{Caches, SdxlCheckpoint, SdxlControlNet};
use crate::models::sdxl::pipeline::{Control, ControlNetTextToImage, Pipeline, Settings, TextToImage, Watch};

/// `marquee generate sdxl`.
#[derive(Debug, Clone, clap::Args)]
pub struct SdxlOptions {
    /// Folder, single file or Hub id; default SDXL_MODEL.
    #[arg(long)]
    pub model: Option<String>,
    /// Takes the place of the model's VAE; default SDXL_VAE.
    #[arg(long)]
    pub vae: Option<String>,
    /// What to paint.
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// What to avoid. Left out, the base model reads zeros, which is not the empty text.
    #[arg(long)]
    pub negative_prompt: Option<String>,
    /// Pixels, a multiple of 8.
    #[arg(long, default_value_t = 1024)]
    pub width: u32,
    /// Pixels, a multiple of 8.
    #[arg(long, default_value_t = 1024)]
    pub height: u32,
    /// Denoise steps.
    #[arg(long, default_value_t = 50)]
    pub steps: u32,
    /// Classifier-free guidance; 1 is off.
    #[arg(long, default_value_t = 5.0)]
    pub guidance: f64,
    /// Seed of every draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// File to write; its ending decides the format.
    #[arg(long, default_value = "generated.png")]
    pub output: PathBuf,
}

/// `marquee generate controlnet`.
#[derive(Debug, Clone, clap::Args)]
pub struct ControlOptions {
    #[command(flatten)]
    text: SdxlOptions,
    /// Edges, bright on black.
    #[arg(long)]
    control: PathBuf,
    /// Folder, file or Hub id; default CONTROLNET_MODEL.
    #[arg(long)]
    controlnet: Option<String>,
    /// Weight of the ControlNet.
    #[arg(long, default_value_t = 1.0)]
    conditioning_scale: f64,
    /// Acts from this part of the schedule, 0 to 1,
    #[arg(long, default_value_t = 0.0)]
    guidance_start: f64,
    /// to this one.
    #[arg(long, default_value_t = 1.0)]
    guidance_end: f64,
}

struct Bar(ProgressBar);

impl Watch for Bar {
    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.0.set_length(total.into());
        self.0.set_position(done.into());
        ControlFlow::Continue(())
    }
}

pub(super) fn generate(config: &ModelConfig, options: &SdxlOptions, on: &On) -> Result<PathBuf, String> {
    let pipeline = load(config, options, None, on)?;
    let bar = ProgressBar::new(0);
    let picture = pipeline.text_to_image(&request(options), &mut Bar(bar.clone()));
    bar.finish_and_clear();
    save_rgb(picture.map_err(|error| error.to_string()), &options.output)?;
    Ok(options.output.clone())
}

pub(super) fn generate_controlled(
    config: &ModelConfig,
    options: &ControlOptions,
    on: &On,
) -> Result<PathBuf, String> {
    // Before gigabytes are read.
    let image = open(&options.control)?;
    let net = options.controlnet.as_deref().unwrap_or(&config.sdxl.controlnet);
    let pipeline = load(config, &options.text, Some(net), on)?;
    let control = Control {
        image: &image,
        scale: options.conditioning_scale,
        start: options.guidance_start,
        end: options.guidance_end,
    };
    let bar = ProgressBar::new(0);
    let request = ControlNetTextToImage { text: request(&options.text), control };
    let picture = pipeline.controlnet_text_to_image(&request, &mut Bar(bar.clone()));
    bar.finish_and_clear();
    save_rgb(picture.map_err(|error| error.to_string()), &options.text.output)?;
    Ok(options.text.output.clone())
}

fn load(
    config: &ModelConfig,
    options: &SdxlOptions,
    controlnet: Option<&str>,
    on: &On,
) -> Result<Pipeline, String> {
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    let model = options.model.as_deref().unwrap_or(&config.sdxl.model);
    let vae = options.vae.as_deref().or(config.sdxl.vae.as_deref());
    let checkpoint = SdxlCheckpoint::open(model, vae, &caches).map_err(|error| error.to_string())?;
    let net = controlnet.map(|net| SdxlControlNet::open(net, &caches)).transpose();
    let net = net.map_err(|error| error.to_string())?;
    Pipeline::load(&checkpoint, net.as_ref(), on.dtype, &on.device).map_err(|error| error.to_string())
}

fn request(options: &SdxlOptions) -> TextToImage<'_> {
    TextToImage {
        prompt: &options.prompt,
        negative_prompt: options.negative_prompt.as_deref(),
        settings: Settings {
            width: options.width,
            height: options.height,
            steps: options.steps,
            seed: options.seed,
        },
        guidance: options.guidance,
        framing: None,
    }
}

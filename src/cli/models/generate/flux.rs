//! FLUX, in its three modes.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::Tensor;
use indicatif::ProgressBar;

use super::{On, save_rgb};
use crate::config::ModelConfig;
use crate::models::checkpoint::Caches;
use crate::models::flux::pipeline::Watch;
use crate::models::generate::{self, Mode, Options};

/// `marquee generate {text-to-image,img2img,inpaint}`.
#[derive(Debug, Clone, clap::Args)]
pub struct FluxOptions {
    /// Folder, file or Hub id; default FLUX_MODEL.
    #[arg(long)]
    pub model: Option<String>,
    /// What to paint.
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// What to avoid; acts with --true-cfg-scale above 1.
    #[arg(long)]
    pub negative_prompt: Option<String>,
    /// True classifier-free guidance; 1 is off.
    #[arg(long, default_value_t = 1.0)]
    pub true_cfg_scale: f64,
    /// Pixels, rounded down to a multiple of 16.
    #[arg(long, default_value_t = 1024)]
    pub width: u32,
    /// Pixels, likewise.
    #[arg(long, default_value_t = 1024)]
    pub height: u32,
    /// Denoise steps [28; 4 for schnell].
    #[arg(long)]
    pub steps: Option<u32>,
    /// Distilled guidance [3.5 from noise, else 7].
    #[arg(long)]
    pub guidance: Option<f64>,
    /// How much of the picture may change [0.6].
    #[arg(long)]
    pub strength: Option<f64>,
    /// Seed of every draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// T5 tokens [512; 256 for schnell].
    #[arg(long)]
    pub max_sequence_length: Option<usize>,
    /// Picture to start from.
    #[arg(long)]
    pub image: Option<PathBuf>,
    /// Bright where the picture is painted anew.
    #[arg(long)]
    pub mask: Option<PathBuf>,
    /// Inpaint only the mask's surroundings, this many pixels beyond it.
    #[arg(long)]
    pub padding_mask_crop: Option<u32>,
    /// File to write; its ending decides the format.
    #[arg(long, default_value = "generated.png")]
    pub output: PathBuf,
}

/// A bar over the denoise steps.
struct Bar(ProgressBar);

impl Watch for Bar {
    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.0.set_length(total.into());
        self.0.set_position(done.into());
        ControlFlow::Continue(())
    }
}

pub(super) fn generate(
    config: &ModelConfig,
    options: &FluxOptions,
    mode: Mode,
    on: &On,
) -> Result<PathBuf, String> {
    let request = Options {
        model: options.model.clone().unwrap_or_else(|| config.flux.model.clone()),
        replacements: config.flux.replacements(),
        caches: Caches::from_vars(|name| std::env::var(name).ok()),
        mode,
        prompt: options.prompt.clone(),
        negative_prompt: options.negative_prompt.clone(),
        true_cfg_scale: options.true_cfg_scale,
        width: options.width,
        height: options.height,
        steps: options.steps,
        guidance: options.guidance,
        strength: options.strength,
        seed: options.seed,
        max_sequence_length: options.max_sequence_length,
        image: options.image.clone(),
        mask: options.mask.clone(),
        padding_mask_crop: options.padding_mask_crop,
    };
    let bar = ProgressBar::new(0);
    let picture = generate::generate(&request, on.dtype, &on.device, &mut Bar(bar.clone()));
    bar.finish_and_clear();
    save_rgb(picture.map_err(|error| error.to_string()), &options.output)?;
    Ok(options.output.clone())
}

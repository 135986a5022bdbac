//! One picture from a checkpoint on disk, with diffusers' defaults for what is not said: `marquee generate`.
//!
//! Owns the defaults and the reading of image files. Must not know jobs; anything with a memory policy uses
//! [`super::flux::pipeline`]'s stages instead.

use std::path::PathBuf;
use std::str::FromStr;

use candle_core::{DType, Device};
use image::{DynamicImage, RgbImage};

use super::checkpoint::{Caches, CheckpointError, FluxCheckpoint, Replacements};
use super::flux::pipeline::{Pipeline, PipelineError, Request, Settings, Start, Watch};

/// What the picture starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Noise.
    TextToImage,
    /// A picture.
    ImageToImage,
    /// A picture and a mask.
    Inpaint,
}

impl FromStr for Mode {
    type Err = GenerateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text-to-image" | "txt2img" => Ok(Self::TextToImage),
            "image-to-image" | "img2img" => Ok(Self::ImageToImage),
            "inpaint" => Ok(Self::Inpaint),
            other => Err(GenerateError::Options(format!(
                "mode {other:?}: expected text-to-image, image-to-image (img2img) or inpaint"
            ))),
        }
    }
}

/// What to make. `None` is diffusers' default for mode and model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder, file or Hub id.
    pub model: String,
    /// Files that take the place of the model's nets.
    pub replacements: Replacements,
    /// Where Hub ids are looked up.
    pub caches: Caches,
    /// What to start from.
    pub mode: Mode,
    /// What to paint.
    pub prompt: String,
    /// What to avoid; acts with `true_cfg_scale` above 1.
    pub negative_prompt: Option<String>,
    /// 1 is off.
    pub true_cfg_scale: f64,
    /// Pixels, rounded down to a multiple of 16.
    pub width: u32,
    /// Pixels, likewise.
    pub height: u32,
    /// 28; 4 for schnell.
    pub steps: Option<u32>,
    /// Text to image 3.5, else 7; schnell has no such input.
    pub guidance: Option<f64>,
    /// 0.6.
    pub strength: Option<f64>,
    /// Of all draws.
    pub seed: u64,
    /// T5 tokens: 512; 256 for schnell.
    pub max_sequence_length: Option<usize>,
    /// Picture to start from.
    pub image: Option<PathBuf>,
    /// Bright where the picture is painted anew.
    pub mask: Option<PathBuf>,
    /// Inpaint only the mask's surroundings, this many pixels beyond it.
    pub padding_mask_crop: Option<u32>,
}

/// Why no picture was made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// A picture could not be read.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: image::ImageError,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run failed or was stopped.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// Opens, checks and loads the model as `dtype` on `device`, and makes the picture.
///
/// # Errors
/// [`GenerateError`]; options and images are looked at before the model.
pub fn generate(
    options: &Options,
    dtype: DType,
    device: &Device,
    watch: &mut dyn Watch,
) -> Result<RgbImage, GenerateError> {
    let image = read(options.image.as_ref())?;
    let mask = read(options.mask.as_ref())?;
    let strength = options.strength.unwrap_or(0.6);
    let start = match (options.mode, &image, &mask) {
        (Mode::TextToImage, None, None) => Start::Noise,
        (Mode::ImageToImage, Some(image), None) => Start::Image { image, strength },
        (Mode::Inpaint, Some(image), Some(mask)) => Start::Inpaint { image, mask, strength },
        (mode, ..) => {
            let needs = match mode {
                Mode::TextToImage => "neither image nor mask",
                Mode::ImageToImage => "an image and no mask",
                Mode::Inpaint => "an image and a mask",
            };
            return Err(GenerateError::Options(format!("{mode:?} takes {needs}")));
        }
    };
    let checkpoint = FluxCheckpoint::open(&options.model, &options.replacements, &options.caches)?;
    let pipeline = Pipeline::load(&checkpoint, dtype, device)?;
    let distilled = !pipeline.has_guidance();
    let request = Request {
        prompt: &options.prompt,
        negative_prompt: options.negative_prompt.as_deref(),
        settings: Settings {
            width: options.width,
            height: options.height,
            steps: options.steps.unwrap_or(if distilled { 4 } else { 28 }),
            seed: options.seed,
        },
        guidance: options.guidance.unwrap_or(if options.mode == Mode::TextToImage { 3.5 } else { 7.0 }),
        true_cfg_scale: options.true_cfg_scale,
        words: options.max_sequence_length.unwrap_or(if distilled { 256 } else { 512 }),
        start,
        padding_mask_crop: options.padding_mask_crop,
    };
    Ok(pipeline.generate(&request, watch)?)
}

fn read(path: Option<&PathBuf>) -> Result<Option<DynamicImage>, GenerateError> {
    path.map(|path| image::open(path).map_err(|source| GenerateError::Image { path: path.clone(), source }))
        .transpose()
}

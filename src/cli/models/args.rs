//! What can be said to the commands on nets.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::models::generate::Mode;

/// One of the commands on nets.
#[derive(Debug, Clone)]
pub struct ModelsOptions {
    /// Which.
    pub command: ModelCommand,
}

/// The commands on nets.
#[derive(Debug, Clone)]
pub enum ModelCommand {
    /// One picture from one model.
    Generate(Box<GenerateOptions>),
    /// Goldens.
    Parity(ParityOptions),
    /// A tiny checkpoint.
    Tiny {
        /// Where.
        folder: PathBuf,
        /// Schnell rather than dev.
        schnell: bool,
    },
    /// A checkpoint's completeness.
    Check {
        /// Instead of `FLUX_MODEL`.
        model: Option<String>,
    },
}

/// `marquee models …`.
#[derive(Debug, Clone, Subcommand)]
pub enum CheckpointArgs {
    /// Write a complete FLUX checkpoint of a few hundred kilobytes with random weights, in the published layout.
    Tiny {
        /// Folder to write.
        folder: PathBuf,
        /// Built like FLUX.1-schnell rather than -dev.
        #[arg(long)]
        schnell: bool,
    },
    /// Check every tensor of a checkpoint (name, shape, place in its file) without loading it.
    Check {
        /// Folder, file or Hub id; default FLUX_MODEL.
        model: Option<String>,
    },
}

impl From<CheckpointArgs> for ModelCommand {
    fn from(args: CheckpointArgs) -> Self {
        match args {
            CheckpointArgs::Tiny { folder, schnell } => Self::Tiny { folder, schnell },
            CheckpointArgs::Check { model } => Self::Check { model },
        }
    }
}

/// `marquee parity`.
#[derive(Debug, Clone, clap::Args)]
pub struct ParityOptions {
    /// Folder with manifest.json and golden.safetensors (format: handler_tests/goldens/README.md).
    pub folder: PathBuf,
}

/// The three modes, in diffusers' words.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// From noise.
    #[value(alias = "txt2img")]
    TextToImage,
    /// From a picture.
    #[value(name = "img2img", alias = "image-to-image")]
    ImageToImage,
    /// From a picture and a mask.
    Inpaint,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::TextToImage => Self::TextToImage,
            ModeArg::ImageToImage => Self::ImageToImage,
            ModeArg::Inpaint => Self::Inpaint,
        }
    }
}

/// `marquee generate`. What is not given has diffusers' default.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateOptions {
    /// What to start from.
    #[arg(value_enum)]
    pub mode: ModeArg,
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

//! What can be said to the commands on nets.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::bench::BenchOptions;
use super::generate::GenerateArgs;

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
    Generate(Box<GenerateArgs>),
    /// Goldens.
    Parity(ParityOptions),
    /// Times.
    Bench(BenchOptions),
    /// A tiny checkpoint.
    Tiny {
        /// Where.
        folder: PathBuf,
        /// Of which net.
        family: TinyFamily,
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
    /// Write a complete small checkpoint of random weights in the published layout.
    Tiny {
        /// Folder to write.
        folder: PathBuf,
        /// Which net it is made for.
        #[arg(long, value_enum, default_value_t = TinyFamily::FluxDev)]
        family: TinyFamily,
    },
    /// Check every tensor of a FLUX checkpoint (name, shape, place in its file) without loading it.
    Check {
        /// Folder, file or Hub id; default FLUX_MODEL.
        model: Option<String>,
    },
}

impl From<CheckpointArgs> for ModelCommand {
    fn from(args: CheckpointArgs) -> Self {
        match args {
            CheckpointArgs::Tiny { folder, family } => Self::Tiny { folder, family },
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

/// What a tiny checkpoint is built like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TinyFamily {
    /// FLUX.1-dev.
    FluxDev,
    /// FLUX.1-schnell.
    FluxSchnell,
    /// SDXL base.
    Sdxl,
    /// A ControlNet for it.
    SdxlControlnet,
    /// BiRefNet.
    Birefnet,
}

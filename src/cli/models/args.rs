//! What can be said to the commands on nets.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::bench::BenchOptions;
use super::generate::GenerateArgs;
use crate::bench::kernels;

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
    /// Checkpoints' completeness.
    Check {
        /// Instead of all that are configured.
        model: Option<String>,
        /// Sum every file.
        checksums: bool,
    },
    /// Models from the Hub.
    Fetch {
        /// Instead of all that are configured.
        models: Vec<String>,
        /// A folder instead of the cache.
        to: Option<PathBuf>,
        /// Branch, tag or commit.
        revision: String,
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
    /// Check every tensor of the configured checkpoints (name, shape, place in its file) without loading them.
    Check {
        /// Folder, file or Hub id of a FLUX checkpoint instead.
        model: Option<String>,
        /// Also read every file that `fetch` or a Hub cache knows the checksum of, and compare.
        #[arg(long)]
        checksums: bool,
    },
    /// Fetch the configured models (FLUX_MODEL, SDXL_MODEL, SDXL_VAE, CONTROLNET_MODEL, SEGMENTATION_MODEL) from the Hub: the
    /// files that the worker reads and no others. Goes on where it was interrupted. HF_TOKEN, HF_ENDPOINT and HF_HOME are
    /// honoured.
    Fetch {
        /// Hub ids instead of the configured models.
        models: Vec<String>,
        /// Write plain folders below this one instead of the Hub's cache.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Branch, tag or commit.
        #[arg(long, default_value = "main")]
        revision: String,
    },
}

impl From<CheckpointArgs> for ModelCommand {
    fn from(args: CheckpointArgs) -> Self {
        match args {
            CheckpointArgs::Tiny { folder, family } => Self::Tiny { folder, family },
            CheckpointArgs::Check { model, checksums } => Self::Check { model, checksums },
            CheckpointArgs::Fetch { models, to, revision } => Self::Fetch { models, to, revision },
        }
    }
}

/// `marquee parity`.
#[derive(Debug, Clone, clap::Args)]
pub struct ParityOptions {
    /// Folder with manifest.json and golden.safetensors (format: handler_tests/goldens/README.md).
    #[arg(required_unless_present = "kernels")]
    pub folder: Option<PathBuf>,
    /// Hold the card's kernels against their CPU twins on random shapes instead: those whose name has one of these in it, or
    /// whose source is called so; all without a name. Needs DEVICE=cuda.
    #[arg(long, value_name = "NAME", num_args = 0..=1, value_delimiter = ',', value_parser = kernels::filter)]
    #[arg(conflicts_with = "folder")]
    pub kernels: Option<Vec<String>>,
    /// Of the first random shape of each kernel; the next has the next seed.
    #[arg(long, default_value_t = 0, conflicts_with = "folder")]
    pub seed: u64,
    /// Random shapes of each kernel, in each format that it takes.
    #[arg(long, default_value_t = 8, conflicts_with = "folder", value_parser = clap::value_parser!(u16).range(1..))]
    pub shapes: u16,
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

//! Commands on nets: `generate` (one stage, to hold against the original), `parity` (goldens), `bench` (times), `models`
//! (checkpoints).
//!
//! Synchronous programs on the main thread: they serve no jobs.

mod args;
mod bench;
mod generate;

use std::path::Path;

pub use args::{CheckpointArgs, ModelCommand, ModelsOptions, ParityOptions, TinyFamily};
pub use bench::BenchOptions;
pub use generate::GenerateArgs;

use super::Exit;
use crate::config::{Config, ModelConfig};
use crate::models::checkpoint::{Caches, FluxCheckpoint};
use crate::models::device::{self, DeviceError, Target};
use crate::models::{parity, tiny};

/// Runs a command on nets.
pub(super) fn models(config: &Config, options: ModelsOptions) -> Exit {
    let result = match options.command {
        ModelCommand::Generate(args) => generate::generate(&config.models, &args),
        ModelCommand::Bench(options) => bench::bench(&config.models, &options),
        ModelCommand::Parity(options) => compare(&config.models, &options.folder),
        ModelCommand::Tiny { folder, family } => {
            let written = match family {
                TinyFamily::FluxDev => tiny::write(&folder, tiny::Family::Dev),
                TinyFamily::FluxSchnell => tiny::write(&folder, tiny::Family::Schnell),
                TinyFamily::Sdxl => tiny::write_sdxl(&folder),
                TinyFamily::SdxlControlnet => tiny::write_sdxl_controlnet(&folder),
                TinyFamily::Birefnet => tiny::write_birefnet(&folder),
            };
            written.map(|()| Exit::Ok).map_err(|error| error.to_string())
        }
        ModelCommand::Check { model } => check(&config.models, model),
    };
    result.unwrap_or_else(|problem| {
        eprintln!("{problem}");
        Exit::Failed
    })
}

/// Prints the table; a miss fails.
fn compare(config: &ModelConfig, folder: &Path) -> Result<Exit, String> {
    let (target, _) = place(config).map_err(|error| error.to_string())?;
    let device = target.open().map_err(|error| error.to_string())?;
    let table = parity::run(folder, &device).map_err(|error| error.to_string())?;
    println!("{table}");
    Ok(if table.passed() { Exit::Ok } else { Exit::Failed })
}

/// Opens a checkpoint and checks every tensor's name, shape and place in its file. Loads nothing.
fn check(config: &ModelConfig, model: Option<String>) -> Result<Exit, String> {
    let model = model.unwrap_or_else(|| config.flux.model.clone());
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    FluxCheckpoint::open(&model, &config.flux.replacements(), &caches).map_err(|error| error.to_string())?;
    println!("{model}: complete");
    Ok(Exit::Ok)
}

/// `DEVICE` and `DTYPE`.
pub(super) fn place(config: &ModelConfig) -> Result<(Target, candle_core::DType), DeviceError> {
    let target: Target = config.device.as_deref().unwrap_or("cpu").parse()?;
    let dtype = config.dtype.as_deref().map_or_else(|| Ok(target.default_dtype()), device::dtype)?;
    Ok((target, dtype))
}

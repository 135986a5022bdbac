//! Commands on nets: `generate` (one stage, to hold against the original), `parity` (goldens, kernels), `bench` (times),
//! `models` (checkpoints).
//!
//! Synchronous programs on the main thread: they serve no jobs.

mod args;
mod bench;
mod fetch;
mod generate;

use std::path::Path;

pub use args::{CheckpointArgs, ModelCommand, ModelsOptions, ParityOptions, TinyFamily};
pub use bench::BenchOptions;
pub use generate::GenerateArgs;

use super::Exit;
use crate::bench::kernels::{self, Checks};
use crate::config::{Config, ModelConfig};
use crate::models::checkpoint::{Caches, FluxCheckpoint, SdxlCheckpoint, SdxlControlNet, open_birefnet};
use crate::models::device::{self, DeviceError, Target};
use crate::models::ops::Rounding;
use crate::models::{parity, tiny};

/// Runs a command on nets.
pub(super) fn models(config: &Config, options: ModelsOptions) -> Exit {
    let result = match options.command {
        ModelCommand::Generate(args) => generate::generate(&config.models, &args),
        ModelCommand::Bench(options) => bench::bench(&config.models, &options),
        ModelCommand::Parity(options) => compare(&config.models, &options),
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
        ModelCommand::Check { model, checksums } => Ok(check(&config.models, model.as_deref(), checksums)),
        ModelCommand::Fetch { models, to, revision } => {
            let fetching = fetch::Fetching { models: &models, to: to.as_deref(), revision: &revision };
            tokio::runtime::Handle::current().block_on(fetch::fetch(&config.models, &fetching))
        }
    };
    result.unwrap_or_else(|problem| {
        eprintln!("{problem}");
        Exit::Failed
    })
}

/// Prints the table of goldens, or a line a kernel; a miss fails.
fn compare(config: &ModelConfig, options: &ParityOptions) -> Result<Exit, String> {
    let (target, _) = place(config).map_err(|error| error.to_string())?;
    if let Some(filters) = &options.kernels {
        if target == Target::Cpu {
            return Err(
                "DEVICE=cpu: --kernels compares a card's kernels with the CPU; set DEVICE=cuda or cuda:N"
                    .to_owned(),
            );
        }
        let device = target.open().map_err(|error| error.to_string())?;
        let checks = Checks { filters: filters.clone(), seed: options.seed, shapes: options.shapes.into() };
        let passed = kernels::check(&checks, &device, &mut |checked| println!("{checked}"));
        return Ok(if passed { Exit::Ok } else { Exit::Failed });
    }
    let folder = options.folder.as_deref().unwrap_or_else(|| Path::new("."));
    let device = target.open().map_err(|error| error.to_string())?;
    let table = parity::run(folder, &device).map_err(|error| error.to_string())?;
    println!("{table}");
    Ok(if table.passed() { Exit::Ok } else { Exit::Failed })
}

/// Opens checkpoints and checks every tensor's name, shape and place in its file. Loads nothing. All are looked at before
/// one that is not complete fails the command.
fn check(config: &ModelConfig, model: Option<&str>, checksums: bool) -> Exit {
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    let flux = |model: &str| FluxCheckpoint::open(model, &config.flux.replacements(), &caches).map(drop);
    let sdxl = &config.sdxl;
    let checked = if let Some(model) = model {
        vec![(model, flux(model))]
    } else {
        let vae = sdxl.vae_of(&sdxl.model);
        vec![
            (config.flux.model.as_str(), flux(&config.flux.model)),
            (sdxl.model.as_str(), SdxlCheckpoint::open(&sdxl.model, vae, &caches).map(drop)),
            (sdxl.controlnet.as_str(), SdxlControlNet::open(&sdxl.controlnet, &caches).map(drop)),
            (config.segmentation.as_str(), open_birefnet(&config.segmentation, &caches).map(drop)),
        ]
    };
    let mut exit = Exit::Ok;
    for (model, complete) in checked {
        let sums = |()| if checksums { fetch::sum(model, &caches) } else { Ok(format!("{model}: complete")) };
        match complete.map_err(|error| error.to_string()).and_then(sums) {
            Ok(line) => println!("{line}"),
            Err(problem) => {
                eprintln!("{model}: {problem}");
                exit = Exit::Failed;
            }
        }
    }
    exit
}

/// `QUANTIZATION`.
pub(super) fn quantisation(config: &ModelConfig) -> Result<Option<Rounding>, DeviceError> {
    config.quantization.as_deref().map_or(Ok(None), device::quantisation)
}

/// `DEVICE` and `DTYPE`.
pub(super) fn place(config: &ModelConfig) -> Result<(Target, candle_core::DType), DeviceError> {
    let target: Target = config.device.as_deref().unwrap_or("cpu").parse()?;
    let dtype = config.dtype.as_deref().map_or_else(|| Ok(target.default_dtype()), device::dtype)?;
    Ok((target, dtype))
}

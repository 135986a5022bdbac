//! `marquee bench`: what the stages, or the kernels, cost on this device.

use candle_core::DType;
use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::Exit;
use crate::bench::kernels::{self, KernelSettings, KernelTimes};
use crate::bench::{self, Measurement, Origin, Overrides, Settings, Size, Stage};
use crate::config::ModelConfig;
use crate::models::checkpoint::Caches;
use crate::models::device::{self, Target};

/// `marquee bench`. DEVICE says where.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchOptions {
    /// What to measure, in this order; default everything.
    #[arg(long = "stage", value_enum, value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Measure single kernels instead, at the shapes that nets at 1024 x 1024 ask for: those whose name has one of these in
    /// it, or whose source is called so; all without a name.
    #[arg(long, value_name = "NAME", num_args = 0..=1, value_delimiter = ',', value_parser = kernels::filter)]
    #[arg(conflicts_with_all = ["stages", "width", "height", "words"])]
    kernels: Option<Vec<String>>,
    /// Which nets to measure.
    #[arg(long, value_enum, default_value_t = ModelArg::Random)]
    model: ModelArg,
    /// f32, bf16 or f16; default bf16 for FLUX, f16 for SDXL and BiRefNet, f32 for all stages on a CPU.
    #[arg(long, value_parser = dtype)]
    dtype: Option<DType>,
    /// Pixels.
    #[arg(long, default_value_t = 1024)]
    width: u32,
    /// Pixels.
    #[arg(long, default_value_t = 1024)]
    height: u32,
    /// T5's tokens.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    words: u16,
    /// Rounds whose times count; of a kernel, laps of up to a hundred launches.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=900))]
    repeats: u16,
    /// Rounds between the first and those that count.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=90))]
    warmups: u16,
    /// Of random weights and inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Measured TFLOP/s of the card's matrix product in the dtype at hand, in place of the data sheet's.
    #[arg(long, value_name = "TFLOPS")]
    ceiling_compute: Option<f64>,
    /// Measured GB/s of the card's memory, in place of the data sheet's.
    #[arg(long, value_name = "GBPS")]
    ceiling_memory: Option<f64>,
}

/// Which nets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModelArg {
    /// The published sizes with random weights; needs no files.
    Random,
    /// The same nets in miniature, to see that everything runs.
    Tiny,
    /// FLUX_MODEL, SDXL_MODEL, CONTROLNET_MODEL and SEGMENTATION_MODEL.
    Configured,
}

impl ValueEnum for Stage {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    device::dtype(text).map_err(|error| error.to_string())
}

/// Prints the report on standard output, and a line a stage on standard error as it goes.
pub(super) fn bench(config: &ModelConfig, options: &BenchOptions) -> Result<Exit, String> {
    let target: Target = config
        .device
        .as_deref()
        .unwrap_or("cpu")
        .parse()
        .map_err(|error: device::DeviceError| error.to_string())?;
    let overrides = Overrides { teraflops: options.ceiling_compute, gigabytes: options.ceiling_memory };
    if let Some(filters) = &options.kernels {
        let size = match options.model {
            ModelArg::Random => Size::Published,
            ModelArg::Tiny => Size::Tiny,
            ModelArg::Configured => {
                eprintln!(
                    "--kernels with --model configured: kernels have no weights; expected random or tiny"
                );
                return Ok(Exit::Usage);
            }
        };
        return time_kernels(&KernelSettings {
            target,
            filters: filters.clone(),
            dtype: options.dtype,
            size,
            repeats: options.repeats.into(),
            warmups: options.warmups.into(),
            seed: options.seed,
            overrides,
        });
    }
    let settings = Settings {
        target,
        dtype: options.dtype,
        quantisation: super::quantisation(config).map_err(|error| error.to_string())?,
        stages: if options.stages.is_empty() { Stage::ALL.to_vec() } else { options.stages.clone() },
        width: options.width,
        height: options.height,
        words: options.words.into(),
        repeats: options.repeats.into(),
        warmups: options.warmups.into(),
        seed: options.seed,
        origin: match options.model {
            ModelArg::Random => Origin::Random(Size::Published),
            ModelArg::Tiny => Origin::Random(Size::Tiny),
            ModelArg::Configured => Origin::Checkpoints {
                flux: config.flux.model.clone(),
                replacements: config.flux.replacements(),
                sdxl: config.sdxl.model.clone(),
                sdxl_vae: config.sdxl.vae_of(&config.sdxl.model).map(str::to_owned),
                controlnet: config.sdxl.controlnet.clone(),
                birefnet: config.segmentation.clone(),
                caches: Caches::from_vars(|name| std::env::var(name).ok()),
            },
        },
        overrides,
    };
    let report = bench::run(&settings, &mut say).map_err(|error| error.to_string())?;
    println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?);
    Ok(if report.complete() { Exit::Ok } else { Exit::Failed })
}

fn say(measurement: &Measurement) {
    let stage = measurement.stage;
    match (&measurement.error, measurement.median_ms) {
        (Some(error), _) => eprintln!("{stage}: {error}"),
        (None, Some(median)) => {
            let share = measurement.percent_of_ceiling;
            let share = share.map_or_else(String::new, |share| format!(", {share:.1} % of the ceiling"));
            let cold = measurement.cold_ms.unwrap_or(0.0);
            eprintln!("{stage}: {median:.2} ms (first {cold:.1}){share}");
        }
        (None, None) => eprintln!("{stage}: no rounds"),
    }
}

fn time_kernels(settings: &KernelSettings) -> Result<Exit, String> {
    let report = kernels::run(settings, &mut say_kernel).map_err(|error| error.to_string())?;
    println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?);
    Ok(if report.complete() { Exit::Ok } else { Exit::Failed })
}

fn say_kernel(times: &KernelTimes) {
    let KernelTimes { name, shape, dtype, .. } = times;
    match (&times.error, times.median_us) {
        (Some(error), _) => eprintln!("{name} {shape} {dtype}: {error}"),
        (None, Some(median)) => {
            let rate = match (times.teraflops_per_second, times.gigabytes_per_second) {
                (Some(teraflops), _) => format!("{teraflops:.1} TFLOP/s"),
                (None, gigabytes) => format!("{:.0} GB/s", gigabytes.unwrap_or(0.0)),
            };
            let share = times.percent_of_ceiling.zip(times.bound);
            let share = share.map_or_else(String::new, |(share, bound)| format!(", {share:.1} % of {bound}"));
            let host = if times.launch_bound { ", the host's time" } else { "" };
            eprintln!("{name} {shape} {dtype}: {median:.1} us, {rate}{share}{host}");
        }
        (None, None) => eprintln!("{name} {shape} {dtype}: no laps"),
    }
}

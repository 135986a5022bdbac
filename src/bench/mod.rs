//! `marquee bench`: what a stage or a kernel costs on this device, and how far that is from what the device could do.
//!
//! Owns which stages there are, how time and memory are taken, and how much arithmetic a stage needs. Measures the nets
//! as the engine runs them, on random weights of the published sizes or on the configured checkpoints. Must not know jobs.
//! Caller: the command line.

mod ceilings;
mod clock;
pub mod kernels;
mod machine;
mod nets;
mod report;
mod stages;
pub mod work;

use candle_core::{DType, Device};

pub use ceilings::{Ceilings, Overrides};
pub use nets::{Origin, Size};
pub use report::{Measurement, Report};
pub use stages::Stage;

use crate::models::checkpoint::CheckpointError;
use crate::models::device::{DeviceError, Target};
use crate::models::flux::pipeline::PipelineError;
use crate::models::ops::Rounding;
use crate::models::schedulers;
use clock::Clock;
use machine::Machine;

/// Why a stage has no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The configured checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device is lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A sampler refused.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The checkpoint's schedule is of another kind.
    #[error(transparent)]
    Schedule(#[from] schedulers::ScheduleError),
    /// No room on the device, a shape that does not match.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// What to measure and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// Instead of each stage's own: bf16 for FLUX, f16 for SDXL and BiRefNet, f32 for everything on a CPU.
    pub dtype: Option<DType>,
    /// Of the matrices in FLUX's blocks.
    pub quantisation: Option<Rounding>,
    /// In this order.
    pub stages: Vec<Stage>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// T5's tokens.
    pub words: usize,
    /// Rounds whose times count.
    pub repeats: usize,
    /// Rounds between the first and those that count. Memory is watched in the first and in these.
    pub warmups: usize,
    /// Of weights and inputs.
    pub seed: u64,
    /// Where nets come from.
    pub origin: Origin,
    /// Measured figures in place of the data sheet's.
    pub overrides: Overrides,
}

/// What a stage runs on.
struct Bench<'a> {
    settings: &'a Settings,
    device: Device,
}

impl Bench<'_> {
    /// What was asked for, or `card` on a card and f32 on a CPU.
    fn dtype(&self, card: DType) -> DType {
        self.settings.dtype.unwrap_or(if self.device.is_cpu() { DType::F32 } else { card })
    }

    /// Rounds that a stage has to run.
    fn rounds(&self) -> usize {
        1 + self.settings.warmups + self.settings.repeats
    }

    /// A seed of its own for each round.
    fn round_seed(&self, round: usize) -> u64 {
        self.settings.seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(1 + round as u64)
    }
}

/// Measures all stages. One that fails (no room, no checkpoint) leaves its error in the report, and the next runs. `done`
/// sees each result as it comes.
///
/// # Errors
/// The device cannot be opened.
pub fn run(settings: &Settings, done: &mut dyn FnMut(&Measurement)) -> Result<Report, DeviceError> {
    let bench = Bench { settings, device: settings.target.open()? };
    let machine = Machine::of(&bench.device);
    let ceilings = Ceilings::of(&machine.name, settings.overrides);
    let mut measurements = Vec::with_capacity(settings.stages.len());
    for &stage in &settings.stages {
        let mut clock = Clock::new(&bench.device, settings.warmups);
        let outcome = stages::run(stage, &bench, &mut clock);
        let measurement = match outcome {
            Ok(ran) => Measurement::new(stage, settings, &ran, &clock, &ceilings),
            Err(error) => Measurement::failed(stage, settings, &error),
        };
        done(&measurement);
        measurements.push(measurement);
    }
    Ok(Report::new(settings, &machine, ceilings, measurements))
}

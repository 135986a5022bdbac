//! Noise schedules and the solver steps on them, as diffusers computes them.
//!
//! A scheduler turns `scheduler_config.json` and a step count into a schedule; the schedule is a plain value (sigmas,
//! timesteps) that a sampler walks. Schedules are host numbers in f32, rounded where numpy and torch round. Must not know
//! which net predicts. Callers: the samplers.

pub mod euler_discrete;
pub mod flow_match_euler;

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use thiserror::Error;

pub use euler_discrete::{EulerConfig, EulerDiscrete, EulerSchedule};
pub use flow_match_euler::{FlowMatch, FlowMatchConfig, FlowSchedule};

/// Why a schedule cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// The configuration asks for a variant that would silently give other pictures.
    #[error("scheduler_config.json: `{option}` is `{found}`; this build computes {supported} only")]
    Unsupported {
        /// Name in the configuration.
        option: &'static str,
        /// What it says.
        found: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// A request outside what the schedule can do.
    #[error("{what}: expected {expected}, found {found}")]
    OutOfRange {
        /// What was asked for.
        what: &'static str,
        /// The range.
        expected: String,
        /// The value.
        found: String,
    },
}

impl ScheduleError {
    fn steps(found: usize, most: usize) -> Self {
        Self::OutOfRange {
            what: "inference steps",
            expected: format!("1 to {most}"),
            found: found.to_string(),
        }
    }
}

/// `scalar * x` where torch holds the scalar in a tensor of no dimensions: in half precision it is rounded first.
fn times(x: &Tensor, scalar: f32) -> Result<Tensor> {
    x.affine(f64::from(rounded(scalar, x.dtype())), 0.0)
}

/// `value` as `dtype` holds it.
fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => bf16::from_f32(value).to_f32(),
        DType::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// numpy's `linspace(start, stop, n)` in f64: the last point is `stop` itself.
fn linspace(start: f64, stop: f64, n: usize) -> Vec<f64> {
    let step = (stop - start) / (n.max(2) - 1) as f64;
    (0..n).map(|i| if i > 0 && i + 1 == n { stop } else { i as f64 * step + start }).collect()
}

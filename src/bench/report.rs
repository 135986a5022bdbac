//! The figures as JSON.

use candle_core::DType;
use serde::Serialize;

use super::clock::Clock;
use super::machine::Machine;
use super::stages::{Ran, Stage};
use super::{BenchError, Ceilings, Origin, Settings, Size};

/// All figures of one call.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    program: &'static str,
    version: &'static str,
    device: Machine,
    target: String,
    weights: &'static str,
    ceilings: Ceilings,
    /// One a stage, in order.
    pub measurements: Vec<Measurement>,
}

impl Report {
    pub(super) fn new(
        settings: &Settings,
        machine: &Machine,
        ceilings: Ceilings,
        measurements: Vec<Measurement>,
    ) -> Self {
        Self {
            program: "marquee",
            version: env!("CARGO_PKG_VERSION"),
            device: machine.clone(),
            target: settings.target.to_string(),
            weights: match settings.origin {
                Origin::Random(Size::Published) => "random, published sizes",
                Origin::Random(Size::Tiny) => "random, tiny sizes",
                Origin::Checkpoints { .. } => "configured checkpoints",
            },
            ceilings,
            measurements,
        }
    }

    /// Whether every stage has figures.
    pub fn complete(&self) -> bool {
        self.measurements.iter().all(|measurement| measurement.error.is_none())
    }
}

/// One stage's figures. Absent where they are not known or do not apply.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measurement {
    /// Which.
    pub stage: &'static str,
    /// Compute dtype.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<&'static str>,
    /// Of the matrices in FLUX's blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Making the nets: drawing or reading weights, and bringing them to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_ms: Option<f64>,
    /// The first round, which loads kernels and builds plans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_ms: Option<f64>,
    /// Rounds that count, after those that warm up.
    pub repeats: usize,
    /// Of the rounds that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_ms: Option<f64>,
    /// The fastest that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// The slowest that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Floating point operations of a round's matrix products and convolutions; a multiplication and an addition are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Bytes that a round has to move at least: every weight once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// `flops` over the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teraflops_per_second: Option<f64>,
    /// `bytes` over the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigabytes_per_second: Option<f64>,
    /// The time that the ceilings allow, as a share of the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent_of_ceiling: Option<f64>,
    /// Which ceiling that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<&'static str>,
    /// Most memory in use: of a card by all processes, of a CPU by this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

impl Measurement {
    pub(super) fn new(
        stage: Stage,
        settings: &Settings,
        ran: &Ran,
        clock: &Clock,
        ceilings: &Ceilings,
    ) -> Self {
        let times = clock.counted();
        let median = median(&times);
        let per_second = |amount: Option<f64>, unit: f64| Some(rounded(amount? / median? / unit * 1e3));
        let limit = |flops: Option<f64>, bytes: Option<f64>| {
            ceilings.floor(ran.dtype, flops.unwrap_or(0.0), bytes.unwrap_or(0.0))
        };
        let floor = if ran.on_device { limit(ran.flops, ran.bytes) } else { None };
        Self {
            dtype: Some(name(ran.dtype)),
            quantization: ran.quantisation.map(|quantisation| quantisation.to_string()),
            build_ms: ran.build_ms.map(rounded),
            cold_ms: clock.first().map(rounded),
            repeats: times.len(),
            median_ms: median.map(rounded),
            min_ms: times.first().copied().map(rounded),
            max_ms: times.last().copied().map(rounded),
            flops: ran.flops,
            bytes: ran.bytes,
            teraflops_per_second: per_second(ran.flops, 1e12),
            gigabytes_per_second: per_second(ran.bytes, 1e9),
            percent_of_ceiling: floor.zip(median).map(|((floor, _), median)| rounded(floor / median * 100.0)),
            bound: floor.map(|(_, bound)| bound),
            peak_memory_bytes: clock.peak(),
            ..Self::of(stage, settings)
        }
    }

    pub(super) fn failed(stage: Stage, settings: &Settings, error: &BenchError) -> Self {
        Self { error: Some(error.to_string()), ..Self::of(stage, settings) }
    }

    fn of(stage: Stage, settings: &Settings) -> Self {
        Self { stage: stage.name(), width: settings.width, height: settings.height, ..Self::default() }
    }
}

fn name(dtype: DType) -> &'static str {
    dtype.as_str()
}

/// Of an ascending list; the mean of the two in the middle of an even one.
pub(super) fn median(times: &[f64]) -> Option<f64> {
    let middle = times.len() / 2;
    let upper = *times.get(middle)?;
    let lower = if times.len().is_multiple_of(2) { *times.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

/// To a thousandth.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

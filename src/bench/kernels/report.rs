//! The kernels' figures as JSON.

use serde::Serialize;

use super::lap::Laps;
use super::table::{Kernel, Row};
use super::{Ceilings, Machine};
use crate::bench::report::{median, rounded};
use candle_core::DType;

/// All kernels' figures of one call.
#[derive(Debug, Clone, Serialize)]
pub struct KernelReport {
    pub(super) program: &'static str,
    pub(super) version: &'static str,
    pub(super) device: Machine,
    pub(super) target: String,
    pub(super) ceilings: Ceilings,
    /// One a shape, in the table's order.
    pub kernels: Vec<KernelTimes>,
}

impl KernelReport {
    /// Whether every row has figures.
    pub fn complete(&self) -> bool {
        self.kernels.iter().all(|kernel| kernel.error.is_none())
    }
}

/// One kernel at one shape. Absent where it is not known or does not apply.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KernelTimes {
    /// Which kernel.
    pub name: &'static str,
    /// Its source.
    pub family: &'static str,
    /// Who asks for this shape.
    pub net: &'static str,
    /// In the words of the kernel's callers.
    pub shape: String,
    /// Of inputs and outputs.
    pub dtype: &'static str,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// One launch on the device: the median of the laps' means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_us: Option<f64>,
    /// The fastest lap's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_us: Option<f64>,
    /// The slowest lap's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_us: Option<f64>,
    /// Laps that count.
    pub laps: usize,
    /// Launches of each.
    pub launches: usize,
    /// Sets of inputs and results, used in turn so that no cache holds them.
    pub sets: usize,
    /// What the host needs to queue one launch. Where it is more than `median_us`, a loop that queues nothing else waits for
    /// the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_us: Option<f64>,
    /// The card waited for the host while it was measured: the times are the host's.
    pub launch_bound: bool,
    /// Each input read once, each output written once.
    pub bytes: f64,
    /// Operations of matrix products; a multiplication and an addition are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// `bytes` over the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigabytes_per_second: Option<f64>,
    /// `flops` over the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teraflops_per_second: Option<f64>,
    /// The time that the ceilings allow, as a share of the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent_of_ceiling: Option<f64>,
    /// Which ceiling that is: memory or compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<&'static str>,
}

impl KernelTimes {
    pub(super) fn new(kernel: &Kernel, row: &Row, dtype: DType, laps: &Laps, ceilings: &Ceilings) -> Self {
        let of = Self::of(kernel, row, dtype);
        let times = &laps.microseconds;
        let median = median(times);
        let per_second = |amount: f64, unit: f64| median.map(|median| rounded(amount / median / unit * 1e6));
        let floor = ceilings.floor(row.case.rated_in(dtype), of.flops.unwrap_or(0.0), of.bytes);
        Self {
            median_us: median.map(rounded),
            min_us: times.first().copied().map(rounded),
            max_us: times.last().copied().map(rounded),
            laps: times.len(),
            launches: laps.launches,
            sets: laps.sets,
            host_us: Some(rounded(laps.host)),
            launch_bound: laps.launch_bound,
            gigabytes_per_second: per_second(of.bytes, 1e9),
            teraflops_per_second: of.flops.and_then(|flops| per_second(flops, 1e12)),
            percent_of_ceiling: floor
                .zip(median)
                .map(|((milliseconds, _), median)| rounded(milliseconds * 1e3 / median * 100.0)),
            bound: floor.map(|(_, bound)| bound),
            ..of
        }
    }

    pub(super) fn failed(kernel: &Kernel, row: &Row, dtype: DType, error: &candle_core::Error) -> Self {
        Self { error: Some(error.to_string()), ..Self::of(kernel, row, dtype) }
    }

    fn of(kernel: &Kernel, row: &Row, dtype: DType) -> Self {
        let flops = row.case.flops();
        Self {
            name: kernel.name,
            family: kernel.family,
            net: row.net,
            shape: row.case.shape().to_owned(),
            dtype: dtype.as_str(),
            bytes: row.case.bytes(dtype),
            flops: (flops > 0.0).then_some(flops),
            ..Self::default()
        }
    }
}

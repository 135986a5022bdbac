//! Progress: what the engine says, as the numbers a customer wants to see.

mod metrics;
mod statistics;
mod step;
mod tracker;

pub use metrics::{Metrics, meminfo};
pub use statistics::Statistics;
pub use step::{Step, SubStep};
pub use tracker::Tracker;

use serde::Serialize;
use serde_json::Value;

/// `done` of `total` units of a sub-step are finished (denoise steps where there are any, else 0 or 1 of 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressEvent {
    /// Where the engine is.
    pub sub_step: SubStep,
    /// Units finished.
    pub done: u32,
    /// Units in this sub-step.
    pub total: u32,
}

/// One progress report, as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProgressReport {
    /// 0 to 100, never falling.
    pub percent: f64,
    /// `step1_background`, `step2_text` or `step3_composite`.
    pub current_step: &'static str,
    /// Such as `flux_background (7/25)`.
    pub sub_step: String,
    /// For people.
    pub message: String,
    /// Seconds until the whole job is done; absent until a job of this kind has run before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// Seconds until the current step is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_eta_seconds: Option<f64>,
    /// GPU memory and utilisation, host memory, CPU.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub system_metrics: Value,
}

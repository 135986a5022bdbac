//! What a request did to the device: part of the job's answer.

use serde::Serialize;

/// Peak and per-visit bytes, and every move.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// What weights and computing may use together; absent without a budget.
    pub budget_bytes: Option<u64>,
    /// Most bytes at once: weights on the device and what computing was expected to need.
    pub peak_bytes: u64,
    /// Most bytes that the driver saw taken, by everybody, when a model came or went.
    pub reserved_peak_bytes: Option<u64>,
    /// In order.
    pub visits: Vec<VisitReport>,
    /// In order.
    pub moves: Vec<MoveReport>,
}

/// One visit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VisitReport {
    /// What was done.
    pub label: String,
    /// Part of this step.
    pub step: u8,
    /// Bytes of weights on the device when it began.
    pub resident_bytes: u64,
    /// Bytes that computing was expected to need.
    pub work_bytes: u64,
    /// Bytes that crossed the bus each time that a net ran which is larger than the budget.
    pub streamed_bytes: u64,
}

/// One model that came or went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveReport {
    /// Which.
    pub model: String,
    /// From where.
    pub from: Place,
    /// To where.
    pub to: Place,
    /// How much.
    pub bytes: u64,
    /// How long it took, whether anybody waited for it or something was computed beside it; absent for what is only freed,
    /// and for a copy that was still running when the request ended.
    pub seconds: Option<f64>,
}

/// Where weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the checkpoint's files.
    Disk,
    /// In main memory, page-locked where there is a card.
    Host,
    /// On the device.
    Device,
}

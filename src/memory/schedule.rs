//! The plan of a whole request: which model comes and goes before and during which visit. Pure.

use super::timetable::StepRule;

/// A registered model, numbered in the order of registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub usize);

/// A stretch of work with its models, all of them needed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// In logs and reports: `T5`, `denoise background`.
    pub label: String,
    /// Which models it needs.
    pub models: Vec<ModelId>,
    /// Bytes that computing takes beside the weights, at its peak.
    pub work: u64,
    /// Which step it belongs to; never falls from one visit to the next.
    pub step: u8,
}

/// What a request will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Itinerary {
    /// In order.
    pub visits: Vec<Visit>,
    /// How long each step's models may stay.
    pub rules: Vec<StepRule>,
}

/// The request needs more than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{visit}: does not fit")]
pub struct CannotFit {
    /// Which visit.
    pub visit: String,
}

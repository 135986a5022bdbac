//! A schedule with its seconds.

use serde_json::{Value, json};

use crate::engine::real::sizes::Sizes;
use crate::memory::schedule::{Action, Itinerary, Move, Schedule};

/// What `marquee plan` knows.
pub(super) struct Forecast {
    pub(super) schedule: Schedule,
    pub(super) itinerary: Itinerary,
    pub(super) sizes: Sizes,
    /// Bytes for weights and computing.
    pub(super) budget: Option<u64>,
    /// GB/s.
    pub(super) bus: f64,
    /// GB/s.
    pub(super) disk: f64,
}

impl Forecast {
    /// How long a move takes; freeing takes none.
    pub(super) fn seconds(&self, step: &Move) -> f64 {
        let rate = match step.action {
            Action::Upload => self.bus,
            Action::Read => self.disk,
            Action::Free | Action::Keep | Action::Forget => return 0.0,
        };
        step.bytes as f64 / (rate * 1e9)
    }

    pub(super) fn name(&self, step: &Move) -> &str {
        self.sizes.nets.get(step.model.0).map_or("?", |size| &size.name)
    }

    /// (before visits, beside computing): the second part hides behind the computing as far as that takes as long.
    pub(super) fn transfer_seconds(&self) -> (f64, f64) {
        let sum = |moves: &mut dyn Iterator<Item = &Move>| moves.map(|step| self.seconds(step)).sum();
        (
            sum(&mut self.schedule.stages.iter().flat_map(|stage| &stage.before)),
            sum(&mut self.schedule.stages.iter().flat_map(|stage| &stage.during)),
        )
    }

    pub(super) fn json(&self) -> Value {
        let moves = |moves: &[Move]| -> Vec<Value> { moves.iter().map(|step| self.one(step)).collect() };
        let departures = |departures: &[crate::memory::schedule::Departure]| -> Vec<Value> {
            let all = departures.iter();
            all.map(|departure| json!({"label": departure.label, "moves": moves(&departure.moves)})).collect()
        };
        let visits: Vec<Value> = self
            .itinerary
            .visits
            .iter()
            .zip(&self.schedule.stages)
            .map(|(visit, stage)| {
                let streaming: Vec<Value> = stage
                    .streaming
                    .iter()
                    .map(|streaming| {
                        let seconds = streaming.bytes as f64 / (self.bus * 1e9);
                        let model = self.sizes.nets.get(streaming.model.0).map(|size| &size.name);
                        json!({"model": model, "bytes_a_run": streaming.bytes, "seconds_a_run": seconds})
                    })
                    .collect();
                json!({
                    "label": visit.label,
                    "step": visit.step,
                    "due": departures(&stage.due),
                    "before": moves(&stage.before),
                    "during": moves(&stage.during),
                    "streaming": streaming,
                    "resident_bytes": stage.resident,
                    "work_bytes": visit.work,
                    "peak_bytes": stage.peak,
                })
            })
            .collect();
        let (waiting, beside) = self.transfer_seconds();
        let models: Vec<Value> = self
            .sizes
            .nets
            .iter()
            .map(|size| json!({"model": size.name, "bytes": size.bytes(), "host_bytes": size.host}))
            .collect();
        json!({
            "budget_bytes": self.budget,
            "peak_bytes": self.schedule.peak,
            "host_peak_bytes": self.schedule.host_peak,
            "left_bytes": self.schedule.left,
            "transfer_seconds": {"before_computing": waiting, "beside_computing": beside},
            "rates_gb_per_s": {"bus": self.bus, "disk": self.disk},
            "published_sizes_of": self.sizes.assumed,
            "models": models,
            "visits": visits,
            "closing": departures(&self.schedule.closing),
        })
    }

    fn one(&self, step: &Move) -> Value {
        let (from, to) = places(step.action);
        json!({
            "model": self.name(step),
            "from": from,
            "to": to,
            "pieces": step.pieces.len(),
            "bytes": step.bytes,
            "seconds": self.seconds(step),
        })
    }
}

/// From where to where.
pub(super) fn places(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Read => ("disk", "host"),
        Action::Upload => ("host", "device"),
        Action::Free => ("device", "host"),
        Action::Keep => ("device", "device"),
        Action::Forget => ("host", "disk"),
    }
}

//! Turns the engine's events into reports: percent, forecast, wording. Pure: time is an argument.
//!
//! Called on the engine's thread by the worker's progress callback, so everything here costs microseconds.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use super::{ProgressEvent, ProgressReport, Step, SubStep};
use crate::input::Plan;
use crate::input::plan::BackgroundModel;

/// What one sub-step of a plan is expected to cost.
#[derive(Debug, Clone)]
struct Forecast {
    sub_step: SubStep,
    units: u32,
    /// Seconds a unit took in earlier runs of the same kind.
    unit_seconds: Option<f64>,
}

impl Forecast {
    fn seconds(&self) -> Option<f64> {
        self.unit_seconds.map(|unit| unit * f64::from(self.units))
    }

    /// Share of the whole, in arbitrary units: seconds if they are known for the whole plan, else one a unit.
    fn weight(&self, in_seconds: bool) -> f64 {
        match self.seconds() {
            Some(seconds) if in_seconds => seconds,
            _ => f64::from(self.units),
        }
    }
}

/// Follows one run.
pub struct Tracker {
    forecasts: Vec<Forecast>,
    in_seconds: bool,
    flux_background: bool,
    percent: f64,
    started: HashMap<SubStep, Duration>,
    /// Seconds a unit took in this run, for the statistics.
    measured: HashMap<SubStep, f64>,
}

impl Tracker {
    /// `unit_seconds`: what a unit of a sub-step cost in earlier runs of the same kind.
    pub fn new(plan: &Plan, unit_seconds: impl Fn(SubStep) -> Option<f64>) -> Self {
        let forecasts: Vec<_> = plan
            .sub_steps()
            .into_iter()
            .map(|(sub_step, units)| Forecast { sub_step, units, unit_seconds: unit_seconds(sub_step) })
            .collect();
        let known: f64 = forecasts.iter().filter_map(Forecast::seconds).sum();
        Self {
            in_seconds: known > 0.0 && forecasts.iter().all(|f| f.unit_seconds.is_some()),
            forecasts,
            flux_background: plan.background.as_ref().is_none_or(|b| b.model == BackgroundModel::Flux),
            percent: 0.0,
            started: HashMap::new(),
            measured: HashMap::new(),
        }
    }

    /// Takes in one event at `now` (since the run began) and says what to report.
    pub fn observe(&mut self, event: ProgressEvent, now: Duration) -> ProgressReport {
        let ProgressEvent { sub_step, done, total } = event;
        let total = total.max(1);
        let done = done.min(total);
        let started = *self.started.entry(sub_step).or_insert(now);
        if done > 0 {
            let unit = now.saturating_sub(started).as_secs_f64() / f64::from(done);
            self.measured.insert(sub_step, unit);
        }
        let share = f64::from(done) / f64::from(total);
        self.percent = self.percent.max(self.percent_at(sub_step, share)).min(100.0);
        ProgressReport {
            percent: (self.percent * 10.0).round() / 10.0,
            current_step: sub_step.step().as_str(),
            sub_step: format!("{} ({done}/{total})", self.label(sub_step)),
            message: message(sub_step).to_owned(),
            eta_seconds: self.remaining(sub_step, share, None),
            step_eta_seconds: self.remaining(sub_step, share, Some(sub_step.step())),
            system_metrics: Value::Null,
        }
    }

    /// Seconds a unit of each sub-step took, of those that began and finished at least one.
    pub fn measured(&self) -> impl Iterator<Item = (SubStep, f64)> + '_ {
        self.measured.iter().map(|(sub_step, seconds)| (*sub_step, *seconds))
    }

    fn percent_at(&self, at: SubStep, share: f64) -> f64 {
        let (mut before, mut all) = (0.0, 0.0);
        for forecast in &self.forecasts {
            let weight = forecast.weight(self.in_seconds);
            all += weight;
            match forecast.sub_step.cmp(&at) {
                std::cmp::Ordering::Less => before += weight,
                std::cmp::Ordering::Equal => before += weight * share,
                std::cmp::Ordering::Greater => {}
            }
        }
        if all > 0.0 { 100.0 * before / all } else { 0.0 }
    }

    /// Seconds left in the whole run, or in `within`; `None` while a part of it has never been measured.
    fn remaining(&self, at: SubStep, share: f64, within: Option<Step>) -> Option<f64> {
        let mut left = 0.0;
        for forecast in self.forecasts.iter().filter(|f| within.is_none_or(|step| f.sub_step.step() == step))
        {
            // What this run measured is nearer to the truth than what earlier runs did.
            let unit = self.measured.get(&forecast.sub_step).copied().or(forecast.unit_seconds);
            let units = f64::from(forecast.units);
            match forecast.sub_step.cmp(&at) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => left += unit? * units * (1.0 - share),
                std::cmp::Ordering::Greater => left += unit? * units,
            }
        }
        Some((left * 100.0).round() / 100.0)
    }

    fn label(&self, sub_step: SubStep) -> &'static str {
        match sub_step {
            SubStep::BackgroundGeneration if self.flux_background => "flux_background",
            SubStep::BackgroundGeneration => "sdxl_background",
            other => other.as_str(),
        }
    }
}

fn message(sub_step: SubStep) -> &'static str {
    match sub_step {
        SubStep::Segmentation => "Cutting out the product",
        SubStep::BackgroundGeneration => "Painting the background",
        SubStep::FeatureInjection => "Merging the product into the scene",
        SubStep::TextCanvas => "Setting the phrase",
        SubStep::TextGeneration => "Shaping the text",
        SubStep::TextSegmentation => "Cutting out the text",
        SubStep::Composition => "Composing the final picture",
    }
}

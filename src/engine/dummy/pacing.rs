//! The rhythm of a run: announce, work, wait, report, check.
//!
//! Owns the order of progress calls and the timings; what is worked on is the engine's.

use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Ctx, EngineError};
use crate::progress::SubStep;

/// Longest sleep between two looks at the stop signal.
const SLICE: Duration = Duration::from_millis(10);

/// Runs sub-steps one after another.
pub struct Pacer<'a> {
    ctx: &'a Ctx,
    step: Duration,
    planned: Vec<(SubStep, u32)>,
    timings: Vec<(SubStep, Duration)>,
}

impl<'a> Pacer<'a> {
    /// Units of each sub-step come from the plan, so that progress and its forecast cannot differ from the run.
    pub fn new(ctx: &'a Ctx, step: Duration, planned: Vec<(SubStep, u32)>) -> Self {
        Self { ctx, step, planned, timings: Vec::new() }
    }

    /// A sub-step with denoise steps: `work(done, total)` before each is reported.
    pub fn denoise(
        &mut self,
        sub_step: SubStep,
        mut work: impl FnMut(u32, u32) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let total =
            self.planned.iter().find(|(planned, _)| *planned == sub_step).map_or(1, |(_, units)| *units);
        let started = Instant::now();
        self.ctx.check()?;
        self.ctx.progress(sub_step, 0, total);
        for done in 0..total {
            let unit_started = Instant::now();
            work(done, total)?;
            self.wait_until(unit_started + self.step)?;
            self.ctx.progress(sub_step, done + 1, total);
        }
        self.timings.push((sub_step, started.elapsed()));
        Ok(())
    }

    /// A sub-step of one unit, which is not slowed down.
    pub fn once<T>(
        &mut self,
        sub_step: SubStep,
        work: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let started = Instant::now();
        self.ctx.check()?;
        self.ctx.progress(sub_step, 0, 1);
        let value = work()?;
        self.ctx.check()?;
        self.ctx.progress(sub_step, 1, 1);
        self.timings.push((sub_step, started.elapsed()));
        Ok(value)
    }

    /// Checks at least once, even when the time is already past.
    fn wait_until(&self, end: Instant) -> Result<(), EngineError> {
        loop {
            self.ctx.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }

    /// Wall time of each sub-step that ran.
    pub fn into_timings(self) -> Vec<(SubStep, Duration)> {
        self.timings
    }
}

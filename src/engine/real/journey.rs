//! A job on its way through its stops: what each sub-step takes of memory, of time and of the customer's patience.
//!
//! Owns the order (only the stop that the itinerary has next can be visited), progress and timings, and the second attempt
//! after the device ran full. Must not know what is painted. Called by the steps.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use candle_core::Device;

use super::fault::{Condition, Fault};
use super::itinerary::{Act, Stop};
use super::watch::Progress;
use crate::engine::{Ctx, EngineError};
use crate::memory::{Handle, Lease, Memory};
use crate::models::device;
use crate::progress::SubStep;

/// One job under way.
pub struct Journey<'a> {
    memory: &'a mut Memory,
    ctx: &'a Ctx,
    device: &'a Device,
    ahead: VecDeque<Stop>,
    planned: Vec<(SubStep, u32)>,
    /// What the customer should know.
    pub warnings: Vec<String>,
    /// Wall time of each sub-step that ended.
    pub timings: Vec<(SubStep, Duration)>,
}

impl<'a> Journey<'a> {
    /// `stops` were announced to `memory`; `planned` are the units of each sub-step.
    pub fn new(
        memory: &'a mut Memory,
        ctx: &'a Ctx,
        device: &'a Device,
        stops: Vec<Stop>,
        planned: Vec<(SubStep, u32)>,
    ) -> Self {
        let ahead = stops.into();
        Self { memory, ctx, device, ahead, planned, warnings: Vec::new(), timings: Vec::new() }
    }

    /// Where nets compute.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The way out.
    pub fn ctx(&self) -> &'a Ctx {
        self.ctx
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Fault::Stopped`].
    pub fn check(&self) -> Result<(), Fault> {
        match self.ctx.check() {
            Err(EngineError::Stopped(reason)) => Err(Fault::Stopped(reason)),
            _ => Ok(()),
        }
    }

    /// Runs `work` as `sub_step`: announced, timed, ended; `work` reports its denoise steps to the progress it is given.
    ///
    /// # Errors
    /// What `work` fails with, or a stop, in the engine's terms.
    pub fn sub_step<T>(
        &mut self,
        sub_step: SubStep,
        work: impl FnOnce(&mut Self, &Progress<'a>) -> Result<T, Fault>,
    ) -> Result<T, EngineError> {
        let begun = Instant::now();
        let units =
            self.planned.iter().find(|(planned, _)| *planned == sub_step).map_or(1, |(_, units)| *units);
        self.ctx.check()?;
        let progress = Progress::begin(self.ctx, sub_step, units);
        let result = work(self, &progress);
        // A stop surfaces as whatever it interrupted.
        self.ctx.check()?;
        let value = result.map_err(|fault| fault.at(sub_step, self.device))?;
        progress.end();
        self.timings.push((sub_step, begun.elapsed()));
        Ok(value)
    }

    /// Makes the next stop, which must be this one, and runs `work` with its nets on the device.
    ///
    /// # Errors
    /// Another stop is next, a net cannot be brought in, what `work` fails with, a stop.
    pub fn visit<T>(
        &mut self,
        sub_step: SubStep,
        act: Act,
        mut work: impl FnMut(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.check()?;
        match self.ahead.pop_front() {
            Some(next) if (next.sub_step, next.act) == (sub_step, act) => {}
            next => {
                let planned = next.map_or_else(|| "nothing".to_owned(), |stop| stop.label());
                return Err(Fault::Defect(format!("{sub_step}: {act:?} where {planned} was planned")));
            }
        }
        let ctx = self.ctx;
        let go_on = || ctx.check().is_ok();
        let begun = Instant::now();
        self.memory.enter_while(&go_on)?;
        self.check()?;
        let entered = begun.elapsed();
        let worked = work(self);
        if tracing::enabled!(tracing::Level::DEBUG) {
            // Time of the program: work that was given to a card may still run.
            let (used, held) = device::computing_peak(self.device).unwrap_or_default();
            tracing::debug!(%sub_step, ?act, ?entered, whole = ?begun.elapsed(), used, held, "visit");
        }
        match worked {
            // Somebody else took memory: once more with less on the device.
            Err(fault) if fault.condition() == Condition::Full => {
                self.memory.again(&fault.to_string(), &go_on)?;
                self.check()?;
                work(self)
            }
            other => other,
        }
    }

    /// A net of the current stop.
    ///
    /// # Errors
    /// The stop did not name it.
    pub fn lease<T: Send + Sync + 'static>(&mut self, handle: Handle<T>) -> Result<Lease<T>, Fault> {
        Ok(self.memory.lease(handle)?)
    }

    /// Step `step` is done.
    pub fn step_done(&mut self, step: u8) {
        self.memory.step_done(step);
    }
}

//! Between the samplers and the worker: every step is progress, every step and block asks whether to go on.

use std::cell::Cell;
use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::engine::Ctx;
use crate::models::flux::BlockId;
use crate::models::{flux, sdxl};
use crate::progress::SubStep;

/// One sub-step under way: says how far it is.
pub struct Progress<'a> {
    ctx: &'a Ctx,
    sub_step: SubStep,
    total: u32,
    /// Last reported.
    done: Cell<u32>,
}

impl<'a> Progress<'a> {
    /// Announces it.
    pub fn begin(ctx: &'a Ctx, sub_step: SubStep, total: u32) -> Self {
        ctx.progress(sub_step, 0, total);
        Self { ctx, sub_step, total, done: Cell::new(0) }
    }

    /// `done` of `total` denoise steps. The sub-step's own total counts, and a repeated run starts again at 0 without
    /// a report: it was announced once.
    fn step(&self, done: u32, total: u32) {
        let done = if total == self.total { done } else { (done * self.total) / total.max(1) };
        if done > 0 {
            self.ctx.progress(self.sub_step, done, self.total);
        }
        self.done.set(done);
    }

    /// Ends it, if its last step did not.
    pub fn end(&self) {
        if self.done.get() < self.total {
            self.ctx.progress(self.sub_step, self.total, self.total);
        }
    }
}

/// Watches a denoising for its sub-step.
pub struct StepWatch<'a>(pub &'a Progress<'a>);

impl StepWatch<'_> {
    fn after(&self, done: u32, total: u32) -> ControlFlow<()> {
        self.0.step(done, total);
        match self.0.ctx.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// An error that ends a net's run because the job was told to stop; the reason is asked of the job again.
pub fn check(ctx: &Ctx) -> candle_core::Result<()> {
    ctx.check().map_err(|error| candle_core::Error::Msg(error.to_string()))
}

impl flux::pipeline::Watch for StepWatch<'_> {
    /// On a CPU a step takes minutes, so a stop is noticed within a block.
    fn block(&mut self, _: BlockId) -> candle_core::Result<()> {
        check(self.0.ctx)
    }

    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.after(done, total)
    }
}

impl sdxl::pipeline::Watch for StepWatch<'_> {
    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.after(done, total)
    }
}

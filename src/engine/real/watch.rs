//! Between the sampler and the worker: every step is progress, every block asks whether to go on.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::engine::Ctx;
use crate::models::flux::BlockId;
use crate::models::flux::pipeline::Watch;
use crate::progress::SubStep;

/// Watches one sub-step's denoising.
pub(super) struct StepWatch<'a> {
    ctx: &'a Ctx,
    sub_step: SubStep,
}

impl<'a> StepWatch<'a> {
    pub(super) fn new(ctx: &'a Ctx, sub_step: SubStep) -> Self {
        Self { ctx, sub_step }
    }
}

impl Watch for StepWatch<'_> {
    /// On a CPU a step takes minutes, so a stop is noticed within a block.
    fn block(&mut self, _: BlockId) -> candle_core::Result<()> {
        self.ctx.check().map_err(|error| candle_core::Error::Msg(error.to_string()))
    }

    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.ctx.progress(self.sub_step, done, total);
        match self.ctx.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

//! Chooses the engine of a plan: the dummy for `test_mode`, else the one with models, if this worker has it.

use super::{Artifacts, Ctx, Engine, EngineError};
use crate::input::Plan;

/// Two engines behind one seam.
pub struct Router {
    dummy: Box<dyn Engine>,
    real: Result<Box<dyn Engine>, String>,
}

impl Router {
    /// `real` is the reason if this build has no nets or its device does not open; jobs that need them are told.
    pub fn new(dummy: Box<dyn Engine>, real: Result<Box<dyn Engine>, String>) -> Self {
        Self { dummy, real }
    }
}

impl Engine for Router {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        match &mut self.real {
            _ if plan.test_mode => self.dummy.run(plan, ctx),
            Ok(real) => real.run(plan, ctx),
            Err(reason) => Err(EngineError::Unavailable(format!("{reason}; or send \"test_mode\": true"))),
        }
    }
}

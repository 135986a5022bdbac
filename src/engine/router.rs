//! Chooses the engine of a plan: the dummy for `test_mode`, else the one with models, if this worker has it.

use super::{Artifacts, Ctx, Engine, EngineError};
use crate::input::Plan;

/// Two engines behind one seam.
pub struct Router {
    dummy: Box<dyn Engine>,
    real: Option<Box<dyn Engine>>,
}

impl Router {
    /// `real` is `None` in a build or on a machine without models.
    pub fn new(dummy: Box<dyn Engine>, real: Option<Box<dyn Engine>>) -> Self {
        Self { dummy, real }
    }
}

impl Engine for Router {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        match &mut self.real {
            _ if plan.test_mode => self.dummy.run(plan, ctx),
            Some(real) => real.run(plan, ctx),
            None => Err(EngineError::Unavailable(
                "this worker has no models (it was built for the worker and test mode only); send \"test_mode\": true, or \
                 run a build with models"
                    .to_owned(),
            )),
        }
    }
}

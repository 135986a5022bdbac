//! What the steps of one job share: the plan, the nets, and FLUX's prompts, read when the first of them is due.

use super::fault::Fault;
use super::flux::{self, Read, ReadRun};
use super::journey::Journey;
use super::known::KnownPrompts;
use super::nets::Nets;
use super::runs::flux_runs;
use crate::input::Plan;
use crate::progress::SubStep;

/// One job's.
pub struct Studio<'a> {
    /// What is asked for.
    pub plan: &'a Plan,
    /// All that the plan needs are open.
    pub nets: &'a Nets,
    known: &'a mut KnownPrompts,
    read: Option<Vec<Read>>,
}

impl<'a> Studio<'a> {
    /// Nothing is read yet.
    pub fn new(plan: &'a Plan, nets: &'a Nets, known: &'a mut KnownPrompts) -> Self {
        Self { plan, nets, known, read: None }
    }

    /// Takes out the FLUX run of `sub_step`; `None` where its strength leaves nothing to paint. The first call reads the
    /// prompts of all runs of the job; a run that was taken out frees its tables when it is dropped.
    ///
    /// # Errors
    /// A stop; what the encoders fail with.
    pub fn flux_run(
        &mut self,
        journey: &mut Journey<'_>,
        sub_step: SubStep,
    ) -> Result<Option<ReadRun>, Fault> {
        let runs = if let Some(runs) = self.read.take() {
            runs
        } else {
            let planned = flux_runs(self.plan);
            if !planned.iter().any(|run| run.sub_step == sub_step) {
                return Ok(None);
            }
            flux::read(journey, self.nets.flux()?, self.known, self.plan, &planned, sub_step)?
        };
        let (mut own, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(of, _)| *of == sub_step);
        self.read = Some(others);
        own.pop().map(|(_, run)| run).transpose()
    }
}

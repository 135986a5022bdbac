//! A device that ran full although the plan allowed it: somebody else took memory.

use super::super::budget::gib;
use super::super::schedule::{Itinerary, ModelId};
use super::super::{Full, MemoryError};
use super::Memory;

impl Memory {
    /// Frees all that the current visit does not need, plans the rest of the request under what the driver says is free, and
    /// enters the visit anew; once a visit.
    pub(super) fn relieve(&mut self, full: Full, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        // Without a plan there is nothing to make smaller.
        let Some(planned) = self.request.budget.filter(|_| !self.request.relieved) else {
            // Whatever this request was to leave on the device would be in the next one's way.
            let all: Vec<ModelId> = (0..self.models.len()).map(ModelId).collect();
            self.unload("idle models", &all)?;
            return Err(MemoryError::OutOfMemory(Box::new(full)));
        };
        tracing::warn!("{full}; what has no use is freed, and it is tried again");
        let needed = self.visit().map(|visit| visit.models.clone()).unwrap_or_default();
        let idle: Vec<ModelId> =
            (0..self.models.len()).map(ModelId).filter(|id| !needed.contains(id)).collect();
        self.unload("idle models", &idle)?;
        let usage = self.driver.usage().map_err(|source| MemoryError::of("the device's memory", source))?;
        let budget = self.room.now(usage, self.allocated()).map_or(planned, |now| now.min(planned));
        let at = self.request.next.saturating_sub(1);
        let Itinerary { visits, rules } = std::mem::take(&mut self.request.itinerary);
        let steps: Vec<Vec<u8>> = self.models.iter().map(|model| model.steps.clone()).collect();
        let rest = Itinerary { visits: visits.get(at..).unwrap_or_default().to_vec(), rules };
        self.reader.withdraw();
        self.plan(rest, Some(budget)).map_err(|error| match error {
            MemoryError::CannotFit(refused) => {
                let reason = format!("{} after all else was freed: {refused}", gib(budget));
                MemoryError::OutOfMemory(Box::new(Full { reason, ..full }))
            }
            other => other,
        })?;
        for (model, steps) in self.models.iter_mut().zip(steps) {
            model.steps = steps;
        }
        self.report.budget_bytes = Some(budget);
        let Some(mut stage) = self.request.stages.pop_front() else { return Ok(()) };
        self.request.next = 1;
        self.request.relieved = true;
        let due = std::mem::take(&mut stage.due);
        self.depart(due)?;
        self.bring_in(&stage, go_on)?;
        self.settle_in(stage)
    }
}

//! The jobs that this worker holds: refuses doubles, answers heartbeats, finds the job that a stop signal names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::job::{JobId, StopHandle, StopReason};

/// Shared by the source, its background tasks and every sink.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashMap<JobId, StopHandle>>>);

impl InFlight {
    /// Registers `id`; `None` if it is already held.
    pub fn enter(&self, id: &JobId) -> Option<Held> {
        let mut jobs = self.lock();
        if jobs.contains_key(id) {
            return None;
        }
        let stop = StopHandle::new();
        jobs.insert(id.clone(), stop.clone());
        Some(Held { jobs: self.clone(), id: id.clone(), stop })
    }

    /// The ids held now, sorted.
    pub fn ids(&self) -> Vec<JobId> {
        let mut ids: Vec<_> = self.lock().keys().cloned().collect();
        ids.sort();
        ids
    }

    /// Pulls the stop handle of `id`; `false` if no such job is held.
    pub fn stop(&self, id: &str) -> bool {
        let Ok(id) = JobId::new(id) else { return false };
        let stop = self.lock().get(&id).cloned();
        stop.is_some_and(|stop| {
            stop.stop(StopReason::Requested);
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, StopHandle>> {
        // Nothing panics while the lock is held, and the map is valid at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's entry, kept by its sink: dropping it makes the id free again.
pub struct Held {
    jobs: InFlight,
    id: JobId,
    stop: StopHandle,
}

impl Held {
    /// The job's name.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What the stop channel pulls.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.id);
    }
}

//! The way back into the store: what the worker says about one job becomes its state.
//!
//! Made by [`super::HttpSource`] for each job that it hands out; called by [`crate::worker`] alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::value::to_raw_value;

use super::record::End;
use super::store::Store;
use crate::job::{Failure, FailureKind, JobId, Outcome, StopReason};
use crate::progress::ProgressReport;
use crate::sink::{DeliveryError, JobSink};

/// Writes one job's progress and outcome into the store.
pub struct StoreSink {
    store: Arc<Store>,
    id: JobId,
    attempt: u32,
    delivered: AtomicBool,
}

impl StoreSink {
    /// A sink for run number `attempt` of the job.
    pub fn new(store: Arc<Store>, id: JobId, attempt: u32) -> Self {
        Self { store, id, attempt, delivered: AtomicBool::new(false) }
    }
}

#[async_trait]
impl JobSink for StoreSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        // A report holds no map with keys that are not strings, which is all that could fail.
        let Ok(raw) = to_raw_value(report) else { return Ok(()) };
        if self.store.progress(&self.id, self.attempt, raw.into()) {
            Ok(())
        } else {
            Err(DeliveryError::Gone)
        }
    }

    async fn deliver(&self, outcome: &Outcome, _refresh: bool) -> Result<(), DeliveryError> {
        // `refresh` asks a platform to replace the worker; here there is none.
        if !self.delivered.swap(true, Ordering::AcqRel) {
            self.store.finish(&self.id, self.attempt, End::from(outcome));
        }
        Ok(())
    }
}

impl Drop for StoreSink {
    /// A job whose worker vanished must not stay in progress for ever.
    fn drop(&mut self) {
        if !self.delivered.swap(true, Ordering::AcqRel) {
            let failure = Failure::new(FailureKind::Shutdown, "the worker dropped the job; send it again");
            self.store.finish(&self.id, self.attempt, End::Failed(Arc::new(failure)));
        }
    }
}

impl From<&Outcome> for End {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed(output) => Self::Completed(output.clone().into()),
            Outcome::Failed(failure) if failure.kind == FailureKind::Deadline => {
                Self::TimedOut(Arc::new(failure.clone()))
            }
            Outcome::Failed(failure) => Self::Failed(Arc::new(failure.clone())),
            Outcome::Stopped(StopReason::Deadline) => Self::TimedOut(Arc::new(Failure::new(
                FailureKind::Deadline,
                StopReason::Deadline.to_string(),
            ))),
            Outcome::Stopped(StopReason::Shutdown) => {
                Self::Failed(Arc::new(Failure::new(FailureKind::Shutdown, StopReason::Shutdown.to_string())))
            }
            Outcome::Stopped(reason) => Self::Cancelled(reason.to_string()),
        }
    }
}

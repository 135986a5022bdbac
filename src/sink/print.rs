//! The sink of the SDK's local test mode: the result on standard output.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::{DeliveryError, JobSink};
use crate::job::Outcome;
use crate::progress::ProgressReport;

/// Prints `Job result: {...}` as the SDK does.
#[derive(Default)]
pub struct PrintSink {
    succeeded: AtomicBool,
}

impl PrintSink {
    /// Whether a completed job was printed.
    pub fn succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Acquire)
    }
}

#[async_trait]
impl JobSink for PrintSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        tracing::info!(percent = report.percent, sub_step = %report.sub_step, "progress");
        Ok(())
    }

    async fn deliver(&self, outcome: &Outcome, _refresh: bool) -> Result<(), DeliveryError> {
        match outcome {
            Outcome::Completed(output) => {
                println!("Job result: {{\"output\": {output}}}");
                self.succeeded.store(true, Ordering::Release);
            }
            Outcome::Failed(failure) => {
                let error = serde_json::to_string(failure).unwrap_or_else(|_| failure.to_string());
                println!("Job result: {{\"error\": {error}}}");
            }
            Outcome::Stopped(reason) => println!("Job result: {{\"error\": \"{reason}\"}}"),
        }
        Ok(())
    }
}

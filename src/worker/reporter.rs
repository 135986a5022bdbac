//! Progress of one job on its way out, and the fence behind it.
//!
//! The engine's thread only replaces the latest report; this task sends it when the interval has passed and the last one
//! has been answered. [`Reporter::fence`] returns when nothing of this job's progress is under way any more: only then
//! may the outcome be sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::progress::{Metrics, ProgressReport};
use crate::sink::JobSink;

/// How long the fence waits for a report in flight. Sinks give up on their own sooner (2 s on the wire); this only
/// bounds a sink that does not.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// Sends the latest progress of one job.
pub struct Reporter {
    latest: watch::Sender<Option<ProgressReport>>,
    closed: CancellationToken,
    task: JoinHandle<()>,
}

/// Where the engine's callback leaves its reports.
#[derive(Clone)]
pub struct ReportSlot(watch::Sender<Option<ProgressReport>>);

impl ReportSlot {
    /// Replaces the report that waits to be sent. Never blocks.
    pub fn put(&self, report: ProgressReport) {
        self.0.send_replace(Some(report));
    }
}

impl Reporter {
    /// Starts sending to `sink`, at most one report an `interval`.
    pub fn start(sink: Arc<dyn JobSink>, metrics: Arc<Metrics>, interval: Duration) -> Self {
        let (latest, reports) = watch::channel(None);
        let closed = CancellationToken::new();
        let task = tokio::spawn(send_latest(sink, metrics, interval, reports, closed.clone()));
        Self { latest, closed, task }
    }

    /// Where to leave reports.
    pub fn slot(&self) -> ReportSlot {
        ReportSlot(self.latest.clone())
    }

    /// Stops sending and waits for the report in flight, if there is one.
    pub async fn fence(mut self) {
        self.closed.cancel();
        if tokio::time::timeout(FENCE_LIMIT, &mut self.task).await.is_err() {
            tracing::warn!(
                "a progress report was still unanswered after {FENCE_LIMIT:?}; its connection is dropped"
            );
            self.task.abort();
            // An aborted task is finished once awaited: nothing of it can run after this line.
            let _ = (&mut self.task).await;
        }
    }
}

async fn send_latest(
    sink: Arc<dyn JobSink>,
    metrics: Arc<Metrics>,
    interval: Duration,
    mut reports: watch::Receiver<Option<ProgressReport>>,
    closed: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = closed.cancelled() => return,
            changed = reports.changed() => if changed.is_err() { return },
        }
        let Some(mut report) = reports.borrow_and_update().clone() else { continue };
        report.system_metrics = metrics.read();
        if let Err(error) = sink.progress(&report).await {
            tracing::debug!(%error, "progress report lost");
        }
        tokio::select! {
            biased;
            () = closed.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

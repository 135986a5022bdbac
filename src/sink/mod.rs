//! The way back: progress and the outcome of one job.
//!
//! A sink is told what happened and turns it into whatever its counterpart understands. It is called by
//! [`crate::worker`] alone, which guarantees the order: progress one at a time, then `deliver` once, then nothing.

pub mod folder;
pub mod print;
pub mod runpod;

use async_trait::async_trait;

use crate::job::Outcome;
use crate::progress::ProgressReport;

/// Receives what becomes of one job.
#[async_trait]
pub trait JobSink: Send + Sync {
    /// Sends one progress report. Lossy: an error is logged and forgotten, and a newer report replaces an unsent one.
    /// Implementations bound their own time (a few seconds), because the outcome waits for a report in flight.
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError>;

    /// Delivers the outcome, retrying within the sink's own budget with byte-identical bodies.
    /// `refresh`: the worker asks to be replaced after this job (`stopPod`).
    async fn deliver(&self, outcome: &Outcome, refresh: bool) -> Result<(), DeliveryError>;
}

/// Progress or an outcome did not reach its receiver.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The receiver said no and would say no again.
    #[error("{to} refused the {what} with status {status}: {body}")]
    Refused {
        /// URL without its query (it may carry credentials).
        to: String,
        /// "result" or "progress".
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// Beginning of the response's body.
        body: String,
    },
    /// The budget ran out; the last attempt's error is the source.
    #[error("{what} not delivered to {to} after {attempts} attempts in {seconds:.1} s")]
    GaveUp {
        /// URL without its query.
        to: String,
        /// "result" or "progress".
        what: &'static str,
        /// Attempts made.
        attempts: u32,
        /// Time spent.
        seconds: f64,
        /// Error of the last attempt.
        #[source]
        last: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The local receiver no longer exists.
    #[error("nobody is waiting for this job any more")]
    Gone,
    /// Writing to disk failed (file sink).
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

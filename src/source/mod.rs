//! Where jobs come from. A source is pulled: the worker asks it only while a permit is free.

pub mod backoff;
pub mod file;
pub mod http;
pub mod runpod;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::job::Envelope;

/// A supplier of jobs.
#[async_trait]
pub trait JobSource: Send {
    /// Waits for up to `want` jobs (at least 1). `busy` says whether the worker holds jobs at the moment.
    ///
    /// When `shutdown` fires, an implementation gives a response that is already arriving the chance to arrive and
    /// returns; jobs that it returns then are handed back by the worker, never dropped.
    async fn take(&mut self, want: usize, busy: bool, shutdown: &CancellationToken) -> Taken;
}

/// What came of asking.
pub enum Taken {
    /// One or more jobs; more than asked for are accepted and queued by the worker.
    Jobs(Vec<Envelope>),
    /// The source answered that there is nothing to do now.
    Nothing,
    /// The source asks not to be asked for this long.
    RateLimited(std::time::Duration),
    /// Something failed that may work later; the worker backs off.
    Failed(TakeError),
    /// There will never be another job (file source, closed queue): finish what runs and exit.
    Exhausted,
}

/// Why asking for a job failed.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// No answer: refused, reset, timed out, half a body.
    #[error("no answer from {url}: {reason}")]
    Transport {
        /// URL without its query.
        url: String,
        /// The transport's words.
        reason: String,
    },
    /// An answer with an error status.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// URL without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the body.
        body: String,
    },
    /// An answer that is no job.
    #[error("{url} sent no usable job: {reason}")]
    Malformed {
        /// URL without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

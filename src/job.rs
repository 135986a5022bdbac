//! What every layer means by "a job": its name, its envelope, its outcome, and the handle that stops it.
//!
//! Knows nothing of how jobs arrive ([`crate::source`]) or what they compute ([`crate::engine`]).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::sink::JobSink;

/// A job's name, unique among the jobs that one worker holds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct JobId(Arc<str>);

/// Longest accepted id in bytes: it travels in URLs and header values (`X-Request-ID`).
pub const MAX_JOB_ID_BYTES: usize = 512;

/// Why a string cannot name a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJobId {
    /// The empty string.
    #[error("job id is empty")]
    Empty,
    /// Longer than [`MAX_JOB_ID_BYTES`].
    #[error("job id has {0} bytes, at most {MAX_JOB_ID_BYTES} are accepted")]
    TooLong(usize),
    /// A control character would break the header that carries the id.
    #[error("job id contains a control character")]
    Control,
}

impl JobId {
    /// Checks and keeps `id`.
    ///
    /// # Errors
    /// [`BadJobId`] for an empty, overlong or unprintable id.
    pub fn new(id: impl AsRef<str>) -> Result<Self, BadJobId> {
        let id = id.as_ref();
        match id {
            "" => Err(BadJobId::Empty),
            _ if id.len() > MAX_JOB_ID_BYTES => Err(BadJobId::TooLong(id.len())),
            _ if id.chars().any(char::is_control) => Err(BadJobId::Control),
            _ => Ok(Self(id.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", &self.0)
    }
}

/// How the customer waits, which decides how large a result may be on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// `/run`: the platform accepts 10 MB.
    Queued,
    /// `/runsync`: the platform accepts 20 MB.
    Waiting,
    /// Nothing on the way limits the size (local file, local API).
    Local,
}

/// A job as it was received, with the way back to whoever sent it.
pub struct Envelope {
    /// Name of the job.
    pub id: JobId,
    /// The `input` member, unread.
    pub input: Value,
    /// Decides the size guard's limit.
    pub delivery: Delivery,
    /// The sender's own limit on the execution time, if it named one (`policy.executionTimeout`).
    pub time_limit: Option<Duration>,
    /// Pulled by the source when the sender cancels, by the worker at the deadline and at shutdown.
    pub stop: StopHandle,
    /// Where progress and the outcome go.
    pub sink: Arc<dyn JobSink>,
}

/// Why a running job was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The platform or a caller cancelled it; the sender expects no result.
    Requested,
    /// Whoever waited for the answer hung up.
    ClientGone,
    /// The job's time limit passed.
    Deadline,
    /// The worker is shutting down.
    Shutdown,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "cancelled on request",
            Self::ClientGone => "the client went away",
            Self::Deadline => "the time limit passed",
            Self::Shutdown => "the worker is shutting down",
        })
    }
}

/// Stops one job. The first reason wins; later ones are ignored.
#[derive(Clone, Default)]
pub struct StopHandle {
    reason: Arc<OnceLock<StopReason>>,
    token: CancellationToken,
}

impl StopHandle {
    /// A handle that nobody has pulled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the job to stop; `false` if it was already asked to.
    pub fn stop(&self, reason: StopReason) -> bool {
        let first = self.reason.set(reason).is_ok();
        self.token.cancel();
        first
    }

    /// The reason, once there is one. Cheap enough to ask between two denoise steps.
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Resolves when the handle is pulled.
    pub async fn stopped(&self) -> StopReason {
        self.token.cancelled().await;
        // `stop` sets the reason before it cancels the token.
        self.reason().unwrap_or(StopReason::Requested)
    }
}

/// How a job ended. Decided once; what a sink sends is a function of this alone.
#[derive(Debug)]
pub enum Outcome {
    /// The output object, serialised once so that a resend is byte-identical.
    Completed(Box<RawValue>),
    /// A failure that the sender is told.
    Failed(Failure),
    /// Stopped at the sender's wish ([`StopReason::Requested`], [`StopReason::ClientGone`]): there is nobody to tell.
    Stopped(StopReason),
}

/// A failed job, in words for the customer and with a stable kind for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Stable, documented name of what went wrong.
    pub kind: FailureKind,
    /// One sentence: what, where, expected, found, what to do.
    pub message: String,
    /// Structured particulars, such as the list of input errors.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl Failure {
    /// A failure without structured particulars.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Value::Null }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

/// Stable names of failures. They are part of the interface: rename none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is wrong; sending it again changes nothing.
    InvalidInput,
    /// The request needs an engine that this worker does not have.
    Unavailable,
    /// The engine reported an error.
    Engine,
    /// The engine panicked; the worker goes on.
    EnginePanic,
    /// The engine ignored its stop signal past the grace period; the worker is replaced.
    EngineHung,
    /// Device memory ran out even after what had no use was freed.
    OutOfMemory,
    /// The device's context is lost; the worker is replaced.
    DeviceLost,
    /// The time limit passed.
    Deadline,
    /// The worker shut down before the job was done; send it again.
    Shutdown,
    /// The result could not be written as JSON (a non-finite number, say).
    Unserialisable,
    /// The result does not fit through the platform, whatever the encoding.
    ResultTooLarge,
}

impl FailureKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::Unavailable => "unavailable",
            Self::Engine => "engine",
            Self::EnginePanic => "engine_panic",
            Self::EngineHung => "engine_hung",
            Self::OutOfMemory => "out_of_memory",
            Self::DeviceLost => "device_lost",
            Self::Deadline => "deadline",
            Self::Shutdown => "shutdown",
            Self::Unserialisable => "unserialisable",
            Self::ResultTooLarge => "result_too_large",
        }
    }

    /// Whether the sender can mend it by sending something else.
    pub fn is_users_fault(self) -> bool {
        matches!(self, Self::InvalidInput)
    }

    /// Whether the worker must be replaced after it.
    pub fn poisons_worker(self) -> bool {
        matches!(self, Self::EngineHung | Self::DeviceLost)
    }
}

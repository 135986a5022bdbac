//! One job of the local API: its states, what is remembered of it, and the object that callers are shown.
//!
//! Knows neither HTTP nor the queue; [`super::store`] owns every record.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use crate::job::{Failure, JobId, StopHandle};

/// A job's state, named as the platform names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Waiting for the worker.
    InQueue,
    /// The worker has it.
    InProgress,
    /// Done; `output` is the result.
    Completed,
    /// Done; `error` says why there is no result.
    Failed,
    /// Taken back by its sender.
    Cancelled,
    /// Its execution timeout or its time to live passed.
    TimedOut,
}

impl JobState {
    /// Whether nothing but a retry can change it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }

    /// Whether `/retry` accepts it.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

/// What a request asks for beyond its input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// `policy.executionTimeout`: limit on the run itself.
    pub execution_timeout: Option<Duration>,
    /// `policy.ttl`: limit on waiting and running together, from the moment of submission.
    pub ttl: Option<Duration>,
}

/// A checked request.
#[derive(Debug)]
pub struct Submission {
    /// The `input` object.
    pub input: Value,
    /// Size of the request's body in bytes: what keeping the input costs, near enough.
    pub bytes: usize,
    /// Limits that the sender set.
    pub policy: Policy,
    /// Where to announce the end.
    pub webhook: Option<Url>,
    /// Sent to `/runsync`, which shows in the id as on the platform.
    pub waiting: bool,
}

/// How a job ended, as the store keeps it.
#[derive(Debug, Clone)]
pub enum End {
    /// With this result.
    Completed(Arc<RawValue>),
    /// With this failure.
    Failed(Arc<Failure>),
    /// With this failure, which a time limit caused.
    TimedOut(Arc<Failure>),
    /// Taken back, for this reason.
    Cancelled(String),
}

/// The status object: what `/status` answers and a webhook receives.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub status: JobState,
    /// Milliseconds that it waited in the queue (so far, if it still waits).
    #[serde(rename = "delayTime")]
    pub delay_time: u64,
    /// Milliseconds that it ran; present once it has ended.
    #[serde(rename = "executionTime", skip_serializing_if = "Option::is_none")]
    pub execution_time: Option<u64>,
    /// The result, or the latest progress report while it runs. Embedded as it is, never parsed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Arc<RawValue>>,
    /// The failure in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The failure for programs: `kind`, `message`, `details`.
    #[serde(rename = "errorDetails", skip_serializing_if = "Option::is_none")]
    pub error_details: Option<Arc<Failure>>,
}

/// Progress reports kept for a `/stream` reader who is slow; older ones give way.
const MAX_CHUNKS: usize = 64;

/// Everything that is remembered of one job.
pub(super) struct Record {
    pub(super) id: JobId,
    pub(super) state: JobState,
    /// Counts retries, so that a late word about an earlier run is told from this one.
    pub(super) attempt: u32,
    /// Kept until the job can no longer be run (again).
    pub(super) input: Option<Value>,
    pub(super) input_bytes: usize,
    pub(super) policy: Policy,
    pub(super) webhook: Option<Url>,
    pub(super) submitted: Instant,
    pub(super) started: Option<Instant>,
    pub(super) ended: Option<Instant>,
    pub(super) stop: StopHandle,
    pub(super) output: Option<Arc<RawValue>>,
    pub(super) error: Option<String>,
    pub(super) failure: Option<Arc<Failure>>,
    /// What `/stream` has not handed out yet.
    pub(super) chunks: VecDeque<Arc<RawValue>>,
    /// Carries the status object to whoever waits, once the job has ended. The object travels along because the record
    /// itself may be evicted before the waiter wakes.
    pub(super) ended_as: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Record {
    pub(super) fn new(id: JobId, submission: Submission, now: Instant) -> Self {
        Self {
            id,
            state: JobState::InQueue,
            attempt: 0,
            input: Some(submission.input),
            input_bytes: submission.bytes,
            policy: submission.policy,
            webhook: submission.webhook,
            submitted: now,
            started: None,
            ended: None,
            stop: StopHandle::new(),
            output: None,
            error: None,
            failure: None,
            chunks: VecDeque::new(),
            ended_as: watch::Sender::new(None),
        }
    }

    /// Back into the queue as if it had just been sent.
    pub(super) fn restart(&mut self, now: Instant) {
        self.state = JobState::InQueue;
        self.attempt += 1;
        self.submitted = now;
        self.started = None;
        self.ended = None;
        self.stop = StopHandle::new();
        self.output = None;
        self.error = None;
        self.failure = None;
        self.chunks.clear();
        self.ended_as.send_replace(None);
    }

    pub(super) fn push_chunk(&mut self, chunk: Arc<RawValue>) {
        if self.chunks.len() == MAX_CHUNKS {
            self.chunks.pop_front();
        }
        self.chunks.push_back(chunk);
    }

    /// Enters a final state. The caller accounts for the memory.
    pub(super) fn end(&mut self, end: End, now: Instant) {
        self.ended = Some(now);
        self.output = None;
        match end {
            End::Completed(output) => {
                self.state = JobState::Completed;
                self.push_chunk(Arc::clone(&output));
                self.output = Some(output);
            }
            End::Failed(failure) => {
                self.state = JobState::Failed;
                self.error = Some(failure.message.clone());
                self.failure = Some(failure);
            }
            End::TimedOut(failure) => {
                self.state = JobState::TimedOut;
                self.error = Some(failure.message.clone());
                self.failure = Some(failure);
            }
            End::Cancelled(why) => {
                self.state = JobState::Cancelled;
                self.error = Some(why);
            }
        }
        if !self.state.is_retryable() {
            self.input = None;
        }
        let snapshot = Arc::new(self.snapshot(now));
        self.ended_as.send_replace(Some(snapshot));
    }

    /// Bytes that keeping this ended job costs. Progress chunks are a few hundred bytes each and bounded in number.
    pub(super) fn kept_bytes(&self) -> usize {
        let input = if self.input.is_some() { self.input_bytes } else { 0 };
        let output = self.output.as_ref().map_or(0, |raw| raw.get().len());
        input + output + self.error.as_ref().map_or(0, String::len) + 1_024
    }

    /// When the sender's time to live passes.
    pub(super) fn expires(&self) -> Option<Instant> {
        // A sum past the clock's range is "never".
        self.policy.ttl.and_then(|ttl| self.submitted.checked_add(ttl))
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let left_queue = self.started.or(self.ended).unwrap_or(now);
        Snapshot {
            id: self.id.clone(),
            status: self.state,
            delay_time: millis(left_queue - self.submitted),
            execution_time: match (self.started, self.ended) {
                (Some(started), Some(ended)) => Some(millis(ended - started)),
                _ => None,
            },
            output: self.output.clone(),
            error: self.error.clone(),
            error_details: self.failure.clone(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

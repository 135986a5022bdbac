//! The queue and memory of the local API: a state machine over [`super::record`], without HTTP.
//!
//! Routes submit, ask, cancel; [`super::HttpSource`] takes; [`super::StoreSink`] reports back. Everything is bounded:
//! jobs and bytes that wait, jobs and bytes that are kept after their end, and for how long.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::record::{End, JobState, Record, Snapshot, Submission};
use crate::config::ApiConfig;
use crate::job::{Failure, FailureKind, JobId, StopHandle, StopReason};

/// What the store may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that wait.
    pub queued_jobs: usize,
    /// Bytes of input that wait: a queue of 100 requests of 32 MiB would take 3 GiB.
    pub queued_bytes: usize,
    /// Ended jobs that are remembered.
    pub kept_jobs: usize,
    /// Bytes of results (and of inputs that may be retried) that are remembered. The newest job is kept whatever its size.
    pub kept_bytes: usize,
    /// For how long an ended job is remembered.
    pub result_ttl: Duration,
}

impl From<&ApiConfig> for Limits {
    fn from(config: &ApiConfig) -> Self {
        Self {
            queued_jobs: config.queue,
            // One request of the largest accepted size must fit.
            queued_bytes: config.body_bytes.max(256 << 20),
            kept_jobs: 10_000,
            kept_bytes: 512 << 20,
            result_ttl: config.result_ttl,
        }
    }
}

/// Why a job was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The bound on waiting jobs or bytes is reached.
    #[error("the queue is full ({jobs} jobs, {bytes} bytes of input); try again later")]
    QueueFull {
        /// Jobs waiting.
        jobs: usize,
        /// Bytes of input waiting.
        bytes: usize,
    },
    /// The worker is shutting down.
    #[error("the worker is shutting down and takes no more jobs")]
    Closed,
}

/// Why a job was not retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetryError {
    /// No such job (any more).
    #[error("no job has this id, or its result has expired")]
    Unknown,
    /// Only failed and timed-out jobs can be retried.
    #[error("the job is {}; only FAILED and TIMED_OUT jobs can be retried", .0.as_str())]
    State(JobState),
    /// It could not be queued.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// A job on its way to the worker.
pub struct Assignment {
    /// Its name.
    pub id: JobId,
    /// Which run of it this is; goes back with every report.
    pub attempt: u32,
    /// The `input` object.
    pub input: Value,
    /// What is left of the sender's limits.
    pub time_limit: Option<Duration>,
    /// Pulled by `/cancel` and by a lost client.
    pub stop: StopHandle,
}

/// What `/stream` answers.
#[derive(Debug, Clone, Serialize)]
pub struct StreamReply {
    /// The job.
    pub id: JobId,
    /// Its state, except that CANCELLED reads FAILED: the official client's `stream()` does not take CANCELLED for an end
    /// and would ask for ever.
    pub status: JobState,
    /// What was not handed out before.
    pub stream: Vec<Chunk>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One element of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct Chunk {
    /// A progress report, or as the last one the result.
    pub output: Arc<RawValue>,
}

/// Numbers for `/health`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs completed since the start.
    pub completed: u64,
    /// Jobs failed or timed out since the start.
    pub failed: u64,
    /// Jobs retried since the start.
    pub retried: u64,
    /// Jobs that run now.
    pub in_progress: usize,
    /// Jobs that wait now.
    pub in_queue: usize,
    /// Jobs that the worker holds now; a cancelled one counts until the worker has let go of it.
    pub held: usize,
}

/// The end of a job, for its webhook.
pub type Announcement = (Url, Arc<Snapshot>);

/// The queue and memory.
pub struct Store {
    limits: Limits,
    inner: Mutex<Inner>,
    arrived: Notify,
}

struct Inner {
    jobs: HashMap<JobId, Record>,
    queue: VecDeque<JobId>,
    queued_bytes: usize,
    /// Ended jobs by time of their end; an entry whose attempt is not the record's is stale (the job was retried).
    ended: VecDeque<(JobId, u32, Instant)>,
    kept_jobs: usize,
    kept_bytes: usize,
    counts: Counts,
    closed: bool,
    announce: mpsc::UnboundedSender<Announcement>,
}

impl Store {
    /// An empty store, and the ends of jobs that have a webhook.
    pub fn new(limits: Limits) -> (Arc<Self>, mpsc::UnboundedReceiver<Announcement>) {
        let (announce, announcements) = mpsc::unbounded_channel();
        let inner = Inner {
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            ended: VecDeque::new(),
            kept_jobs: 0,
            kept_bytes: 0,
            counts: Counts::default(),
            closed: false,
            announce,
        };
        (Arc::new(Self { limits, inner: Mutex::new(inner), arrived: Notify::new() }), announcements)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`SubmitError`] if the queue is full or closed.
    pub fn submit(&self, submission: Submission) -> Result<JobId, SubmitError> {
        let now = Instant::now();
        let mut inner = self.lock(now);
        inner.admit(&self.limits, submission.bytes)?;
        let name = Uuid::new_v4();
        let text = if submission.waiting { format!("sync-{name}-u1") } else { format!("{name}-u1") };
        // A uuid with a prefix is never empty, overlong or unprintable.
        let Ok(id) = JobId::new(text) else { return Err(SubmitError::Closed) };
        inner.queued_bytes += submission.bytes;
        inner.queue.push_back(id.clone());
        inner.jobs.insert(id.clone(), Record::new(id.clone(), submission, now));
        drop(inner);
        self.arrived.notify_one();
        Ok(id)
    }

    /// Up to `want` jobs, oldest first, which are in progress from now on. Empty if none waits.
    pub fn take(&self, want: usize) -> Vec<Assignment> {
        let now = Instant::now();
        let mut inner = self.lock(now);
        let mut taken = Vec::new();
        while taken.len() < want {
            let Some(id) = inner.queue.pop_front() else { break };
            let Some(record) = inner.jobs.get_mut(&id) else { continue };
            record.state = JobState::InProgress;
            record.started = Some(now);
            let rest_of_ttl = record.expires().map(|end| end.saturating_duration_since(now));
            let bytes = record.input_bytes;
            taken.push(Assignment {
                id,
                attempt: record.attempt,
                // Copied, because a failed job may be retried.
                input: record.input.clone().unwrap_or_default(),
                time_limit: [record.policy.execution_timeout, rest_of_ttl].into_iter().flatten().min(),
                stop: record.stop.clone(),
            });
            inner.queued_bytes -= bytes;
            inner.counts.held += 1;
        }
        taken
    }

    /// Resolves once a job may be waiting (or the store was closed) since the last call.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// The status object.
    pub fn status(&self, id: &str) -> Option<Snapshot> {
        let now = Instant::now();
        self.lock(now).find(id).map(|record| record.snapshot(now))
    }

    /// Carries the status object once the job has ended.
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        self.lock(Instant::now()).find(id).map(|record| record.ended_as.subscribe())
    }

    /// Hands out what `/stream` has not handed out yet.
    pub fn stream(&self, id: &str) -> Option<StreamReply> {
        let mut inner = self.lock(Instant::now());
        let record = inner.find(id)?;
        let status = match record.state {
            JobState::Cancelled => JobState::Failed,
            state => state,
        };
        Some(StreamReply {
            id: record.id.clone(),
            status,
            stream: record.chunks.drain(..).map(|output| Chunk { output }).collect(),
            error: record.error.clone(),
        })
    }

    /// Cancels a job that has not ended; the status object afterwards. A queued job leaves the queue, a running one is
    /// told to stop and counts as cancelled from now on, whatever it still reports.
    pub fn cancel(&self, id: &str, reason: StopReason) -> Option<Snapshot> {
        let now = Instant::now();
        let mut inner = self.lock(now);
        let record = inner.find(id)?;
        if !record.state.is_final() {
            record.stop.stop(reason);
            let id = record.id.clone();
            inner.unqueue(&id);
            inner.end(&self.limits, &id, End::Cancelled(reason.to_string()), now);
        }
        // It may have been evicted at once, if nothing is to be remembered.
        inner.find(id).map(|record| record.snapshot(now))
    }

    /// Queues a failed or timed-out job again.
    ///
    /// # Errors
    /// [`RetryError`].
    pub fn retry(&self, id: &str) -> Result<JobId, RetryError> {
        let now = Instant::now();
        let mut inner = self.lock(now);
        let record = inner.find(id).ok_or(RetryError::Unknown)?;
        if !record.state.is_retryable() {
            return Err(RetryError::State(record.state));
        }
        let bytes = record.input_bytes;
        inner.admit(&self.limits, bytes)?;
        let record = inner.find(id).ok_or(RetryError::Unknown)?;
        let (id, kept) = (record.id.clone(), record.kept_bytes());
        record.restart(now);
        inner.kept_jobs -= 1;
        inner.kept_bytes -= kept;
        inner.queued_bytes += bytes;
        inner.queue.push_back(id.clone());
        inner.counts.retried += 1;
        drop(inner);
        self.arrived.notify_one();
        Ok(id)
    }

    /// Cancels every job that waits; how many there were.
    pub fn purge(&self) -> usize {
        let now = Instant::now();
        let mut inner = self.lock(now);
        let waiting: Vec<_> = inner.queue.drain(..).collect();
        inner.queued_bytes = 0;
        for id in &waiting {
            inner.end(&self.limits, id, End::Cancelled("removed by purge-queue".to_owned()), now);
        }
        waiting.len()
    }

    /// Keeps a progress report of a running job.
    pub(super) fn progress(&self, id: &JobId, attempt: u32, report: Arc<RawValue>) -> bool {
        let mut inner = self.lock(Instant::now());
        match inner.running(id, attempt) {
            Some(record) => {
                record.push_chunk(Arc::clone(&report));
                record.output = Some(report);
                true
            }
            None => false,
        }
    }

    /// The worker is done with a job. What it says about a job that was cancelled meanwhile changes nothing.
    pub(super) fn finish(&self, id: &JobId, attempt: u32, end: End) {
        let now = Instant::now();
        let mut inner = self.lock(now);
        inner.counts.held = inner.counts.held.saturating_sub(1);
        if inner.running(id, attempt).is_some() {
            inner.end(&self.limits, id, end, now);
        }
    }

    /// Expires waiting jobs whose time to live passed and forgets old results. Every other call does so too; this one
    /// is for times without calls.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut inner = self.lock(now);
        let expired: Vec<_> = inner
            .queue
            .iter()
            .filter(|id| inner.jobs.get(id).and_then(Record::expires).is_some_and(|end| end <= now))
            .cloned()
            .collect();
        for id in &expired {
            inner.unqueue(id);
            let failure = Failure::new(
                FailureKind::Deadline,
                "policy.ttl passed while the job waited in the queue; send it again or raise the ttl",
            );
            inner.end(&self.limits, id, End::TimedOut(Arc::new(failure)), now);
        }
        inner.forget(&self.limits, now);
    }

    /// Takes no more jobs and fails those that wait, so that nobody waits for a worker that has gone.
    pub fn close(&self) {
        let now = Instant::now();
        let mut inner = self.lock(now);
        inner.closed = true;
        let waiting: Vec<_> = inner.queue.drain(..).collect();
        inner.queued_bytes = 0;
        for id in &waiting {
            let failure = Failure::new(
                FailureKind::Shutdown,
                "the worker shut down before the job started; send it again",
            );
            inner.end(&self.limits, id, End::Failed(Arc::new(failure)), now);
        }
        drop(inner);
        self.arrived.notify_one();
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.lock(Instant::now()).closed
    }

    /// Numbers for `/health`.
    pub fn counts(&self) -> Counts {
        let inner = self.lock(Instant::now());
        Counts {
            in_queue: inner.queue.len(),
            in_progress: inner.jobs.values().filter(|record| record.state == JobState::InProgress).count(),
            ..inner.counts
        }
    }

    /// Jobs and bytes kept after their end.
    pub fn kept(&self) -> (usize, usize) {
        let inner = self.lock(Instant::now());
        (inner.kept_jobs, inner.kept_bytes)
    }

    fn lock(&self, now: Instant) -> MutexGuard<'_, Inner> {
        // No call leaves the state half changed where it could panic, so a poisoned lock is still consistent.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.forget(&self.limits, now);
        inner
    }
}

impl Inner {
    fn admit(&self, limits: &Limits, bytes: usize) -> Result<(), SubmitError> {
        if self.closed {
            return Err(SubmitError::Closed);
        }
        if self.queue.len() >= limits.queued_jobs || self.queued_bytes + bytes > limits.queued_bytes {
            return Err(SubmitError::QueueFull { jobs: self.queue.len(), bytes: self.queued_bytes });
        }
        Ok(())
    }

    fn find(&mut self, id: &str) -> Option<&mut Record> {
        self.jobs.get_mut(&JobId::new(id).ok()?)
    }

    fn running(&mut self, id: &JobId, attempt: u32) -> Option<&mut Record> {
        self.jobs
            .get_mut(id)
            .filter(|record| record.attempt == attempt && record.state == JobState::InProgress)
    }

    fn unqueue(&mut self, id: &JobId) {
        if let Some(place) = self.queue.iter().position(|waiting| waiting == id) {
            self.queue.remove(place);
            self.queued_bytes -= self.jobs.get(id).map_or(0, |record| record.input_bytes);
        }
    }

    fn end(&mut self, limits: &Limits, id: &JobId, end: End, now: Instant) {
        let Some(record) = self.jobs.get_mut(id) else { return };
        record.end(end, now);
        match record.state {
            JobState::Completed => self.counts.completed += 1,
            JobState::Failed | JobState::TimedOut => self.counts.failed += 1,
            _ => {}
        }
        if let Some(webhook) = record.webhook.clone() {
            // Nobody listens once the server is gone; there is nothing to announce to then.
            let _ = self.announce.send((webhook, Arc::new(record.snapshot(now))));
        }
        self.kept_jobs += 1;
        self.kept_bytes += record.kept_bytes();
        self.ended.push_back((id.clone(), record.attempt, now));
        self.forget(limits, now);
    }

    fn forget(&mut self, limits: &Limits, now: Instant) {
        while let Some((id, attempt, at)) = self.ended.front() {
            let Some(record) =
                self.jobs.get(id).filter(|record| record.attempt == *attempt && record.state.is_final())
            else {
                self.ended.pop_front();
                continue;
            };
            let old = now.saturating_duration_since(*at) >= limits.result_ttl;
            // The newest result stays even if it alone is over the bound: it was not delivered to anyone yet.
            let over = self.kept_jobs > 1
                && (self.kept_jobs > limits.kept_jobs || self.kept_bytes > limits.kept_bytes);
            if !old && !over {
                break;
            }
            self.kept_bytes -= record.kept_bytes();
            self.kept_jobs -= 1;
            if let Some((id, ..)) = self.ended.pop_front() {
                self.jobs.remove(&id);
            }
        }
    }
}

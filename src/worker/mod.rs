//! Runs jobs: takes from a source while a permit is free, runs them, delivers through each job's own sink.
//!
//! Knows no protocol and no pipeline. `mod.rs` is the loop and the shutdown, [`attempt`] is one job, [`executor`] the
//! engine's thread, [`reporter`] the progress on its way out.

mod attempt;
mod executor;
mod reporter;

pub use executor::{Executor, MakeEngine};
pub use reporter::Reporter;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::WorkerConfig;
use crate::input::InputLimits;
use crate::job::{Envelope, FailureKind, StopReason};
use crate::output::Bucket;
use crate::progress::{Metrics, Statistics};
use crate::source::backoff::Backoff;
use crate::source::{JobSource, Taken};
use attempt::Ended;

/// What all jobs of a worker share.
pub struct Shared {
    /// How jobs are run and delivered.
    pub config: WorkerConfig,
    /// Caps on what is accepted.
    pub limits: InputLimits,
    /// Run times for forecasts.
    pub statistics: Statistics,
    /// The engine's thread.
    pub executor: Executor,
    /// Where images go that do not fit through the platform.
    pub bucket: Option<Bucket>,
    /// `system_metrics`.
    pub metrics: Arc<Metrics>,
}

/// Why the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source has no more jobs, or shutdown was asked for, and everything held was delivered or handed back.
    Drained,
    /// This worker asked to be replaced after its share of jobs.
    Refresh,
    /// The engine or its device is beyond repair; the platform must replace the worker.
    Poisoned(FailureKind),
    /// The grace period ran out with this many jobs undelivered; each was logged.
    GraceExceeded(usize),
}

/// The loop between a source and the engine.
pub struct Worker {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    jobs: JoinSet<()>,
    active: Arc<AtomicUsize>,
    started: AtomicU64,
    /// Fires when no further job may be taken: shutdown, refresh, or a poisoned engine.
    stop_taking: CancellationToken,
    /// Fires when running jobs must end now: each is stopped and reports that it was handed back.
    hurry: CancellationToken,
    end: Arc<OnceLock<End>>,
    statistics_failed: Arc<AtomicBool>,
}

impl Worker {
    /// A worker that holds up to `shared.config.concurrency` jobs at once.
    pub fn new(shared: Shared) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(shared.config.concurrency)),
            shared: Arc::new(shared),
            jobs: JoinSet::new(),
            active: Arc::default(),
            started: AtomicU64::new(0),
            stop_taking: CancellationToken::new(),
            hurry: CancellationToken::new(),
            end: Arc::default(),
            statistics_failed: Arc::default(),
        }
    }

    /// Takes and runs jobs until the source is exhausted, `shutdown` fires, or the worker must be replaced; then drains.
    /// The source lives until the drain is over, because its heartbeat vouches for the jobs that still run.
    pub async fn run(mut self, mut source: Box<dyn JobSource>, shutdown: CancellationToken) -> End {
        let follow = {
            let (shutdown, stop_taking) = (shutdown.clone(), self.stop_taking.clone());
            tokio::spawn(async move {
                shutdown.cancelled().await;
                stop_taking.cancel();
            })
        };
        let unstarted = self.take_until_stopped(source.as_mut()).await;
        let end = self.drain(unstarted, &shutdown).await;
        follow.abort();
        drop(source);
        end
    }

    /// The loop. Returns jobs that were received but must not be started any more.
    async fn take_until_stopped(&mut self, source: &mut dyn JobSource) -> VecDeque<Envelope> {
        let mut waiting = VecDeque::new();
        let mut backoff = Backoff::default();
        loop {
            let permit = tokio::select! {
                biased;
                () = self.stop_taking.cancelled() => return waiting,
                permit = self.permits.clone().acquire_owned() => permit,
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { return waiting };
            while self.jobs.try_join_next().is_some() {}
            if let Some(envelope) = waiting.pop_front() {
                self.start(envelope, permit);
                continue;
            }
            let want = 1 + self.permits.available_permits();
            let busy = self.active.load(Ordering::Acquire) > 0;
            let asked = Instant::now();
            let pause = match source.take(want, busy, &self.stop_taking).await {
                Taken::Jobs(envelopes) => {
                    backoff.reset();
                    waiting.extend(envelopes);
                    continue;
                }
                Taken::Exhausted => return waiting,
                Taken::Nothing => backoff.after_empty(asked.elapsed()),
                Taken::RateLimited(pause) => pause,
                Taken::Failed(error) => {
                    let pause = backoff.after_failure();
                    tracing::error!(%error, pause_s = pause.as_secs_f64(), "no job taken");
                    pause
                }
            };
            tokio::select! {
                biased;
                () = self.stop_taking.cancelled() => return waiting,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn start(&mut self, envelope: Envelope, permit: OwnedSemaphorePermit) {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let refresh = self.shared.config.refresh_after_jobs == number;
        if refresh {
            let _ = self.end.set(End::Refresh);
            self.stop_taking.cancel();
        }
        let (shared, hurry, active) = (self.shared.clone(), self.hurry.clone(), self.active.clone());
        let (end, stop_taking, warned) =
            (self.end.clone(), self.stop_taking.clone(), self.statistics_failed.clone());
        let span = tracing::info_span!("job", id = %envelope.id);
        active.fetch_add(1, Ordering::AcqRel);
        let job = async move {
            let ended = {
                let work = attempt::run(&envelope, &shared, refresh);
                tokio::pin!(work);
                tokio::select! {
                    biased;
                    ended = &mut work => ended,
                    () = hurry.cancelled() => {
                        envelope.stop.stop(StopReason::Shutdown);
                        work.await
                    }
                }
            };
            drop(envelope);
            active.fetch_sub(1, Ordering::AcqRel);
            if let Ended::Poisoned(kind) = ended {
                let _ = end.set(End::Poisoned(kind));
                stop_taking.cancel();
            }
            // The next job is asked for before the disk is.
            drop(permit);
            save_statistics(shared, &warned).await;
        };
        self.jobs.spawn(job.instrument(span));
    }

    /// Waits for what runs, hands back what does not, and keeps to the grace period once shutdown was asked for.
    async fn drain(&mut self, unstarted: VecDeque<Envelope>, shutdown: &CancellationToken) -> End {
        for envelope in unstarted {
            let span = tracing::info_span!("job", id = %envelope.id);
            self.jobs.spawn(async move { attempt::hand_back(&envelope).await }.instrument(span));
        }
        if matches!(self.end.get(), Some(End::Poisoned(_))) {
            self.hurry.cancel();
        }
        tokio::select! {
            biased;
            () = join_all(&mut self.jobs) => return self.end.get().copied().unwrap_or(End::Drained),
            () = shutdown.cancelled() => {}
        }
        let grace = self.shared.config.shutdown_grace;
        // Jobs that are nearly done may finish; the last third of the grace is for stopping and posting.
        let (finish, until) = (Instant::now() + grace.mul_f64(2.0 / 3.0), Instant::now() + grace);
        if tokio::time::timeout_at(finish, join_all(&mut self.jobs)).await.is_err() {
            tracing::warn!(jobs = self.jobs.len(), "stopping the jobs that still run: the grace period ends");
            self.hurry.cancel();
        }
        if tokio::time::timeout_at(until, join_all(&mut self.jobs)).await.is_err() {
            let left = self.jobs.len();
            tracing::error!(
                jobs = left,
                grace_s = grace.as_secs_f64(),
                "the grace period is over, results are lost"
            );
            self.jobs.abort_all();
            return End::GraceExceeded(left);
        }
        self.end.get().copied().unwrap_or(End::Drained)
    }
}

async fn join_all(jobs: &mut JoinSet<()>) {
    while jobs.join_next().await.is_some() {}
}

/// A full disk must not fill the log as well: one warning a process.
async fn save_statistics(shared: Arc<Shared>, warned: &AtomicBool) {
    let saved = tokio::task::spawn_blocking(move || shared.statistics.save()).await;
    if let Ok(Err(error)) = saved
        && !warned.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%error, "run-time statistics not saved; forecasts last for this process only");
    }
}

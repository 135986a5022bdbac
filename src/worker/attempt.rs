//! One job from its envelope to its delivered outcome.
//!
//! Decode and validate, wait for the engine's turn, run under a deadline, write the output, raise the fence, deliver.
//! Every way out of here ends in exactly one `deliver`.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Shared;
use super::executor::{RunError, Turn};
use super::reporter::Reporter;
use crate::engine::{Artifacts, Ctx, EngineError};
use crate::input::{self, Plan};
use crate::job::{Delivery, Envelope, Failure, FailureKind, Outcome, StopReason};
use crate::output::{self, Ahead};

/// Largest body that the platform takes, bytes.
const QUEUED_LIMIT: u64 = 10_000_000;
/// Likewise for `/runsync`.
const WAITING_LIMIT: u64 = 20_000_000;

/// How a job ended, for the worker's own bookkeeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The worker can go on.
    Fine,
    /// The worker must be replaced.
    Poisoned(FailureKind),
}

/// Runs `envelope` and delivers its outcome. `refresh`: ask for a fresh worker with it.
pub(super) async fn run(envelope: &Envelope, shared: &Shared, refresh: bool) -> Ended {
    let begun = Instant::now();
    let reporter =
        Reporter::start(envelope.sink.clone(), shared.metrics.clone(), shared.config.progress_interval);
    // A defect of ours must still end in a delivered failure, behind the same fence.
    let settled = AssertUnwindSafe(settle(envelope, shared, &reporter, begun)).catch_unwind().await;
    let (outcome, ended) = settled.unwrap_or_else(|_| {
        let message = "the worker panicked over this job; its log says where";
        (Outcome::Failed(Failure::new(FailureKind::EnginePanic, message)), Ended::Fine)
    });
    reporter.fence().await;
    deliver(envelope, &outcome, refresh, begun.elapsed()).await;
    ended
}

/// Tells the sender that its job will not run here: it arrived while the worker was going down.
pub(super) async fn hand_back(envelope: &Envelope) {
    let failure = Failure::new(
        FailureKind::Shutdown,
        "this worker is shutting down and did not start the job; send it again",
    );
    deliver(envelope, &Outcome::Failed(failure), false, Duration::ZERO).await;
}

async fn deliver(envelope: &Envelope, outcome: &Outcome, refresh: bool, elapsed: Duration) {
    let seconds = (elapsed.as_secs_f64() * 1000.0).round() / 1000.0;
    match outcome {
        Outcome::Completed(output) => {
            tracing::info!(seconds, bytes = output.get().len(), "job completed");
        }
        Outcome::Failed(failure) if failure.kind.is_users_fault() => {
            tracing::warn!(seconds, %failure, "job refused");
        }
        Outcome::Failed(failure) => tracing::error!(seconds, %failure, "job failed"),
        Outcome::Stopped(reason) => tracing::info!(seconds, %reason, "job stopped"),
    }
    if let Err(error) = envelope.sink.deliver(outcome, refresh).await {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, source, "result not delivered");
    }
}

/// Decides the outcome, and whether the worker can go on after it.
async fn settle(
    envelope: &Envelope,
    shared: &Shared,
    reporter: &Reporter,
    begun: Instant,
) -> (Outcome, Ended) {
    let mut ended = Ended::Fine;
    let outcome = match attempt(envelope, shared, reporter, begun, &mut ended).await {
        Ok(output) => Outcome::Completed(output),
        Err(failure) => {
            if failure.kind.poisons_worker() {
                ended = Ended::Poisoned(failure.kind);
            }
            Outcome::Failed(failure)
        }
    };
    match envelope.stop.reason() {
        // Whoever cancelled wants no answer, but a hung or lost engine must be known to the worker.
        Some(reason @ (StopReason::Requested | StopReason::ClientGone)) if ended == Ended::Fine => {
            (Outcome::Stopped(reason), ended)
        }
        _ => (outcome, ended),
    }
}

async fn attempt(
    envelope: &Envelope,
    shared: &Shared,
    reporter: &Reporter,
    begun: Instant,
    ended: &mut Ended,
) -> Result<Box<RawValue>, Failure> {
    let limit = envelope.time_limit.unwrap_or(shared.config.job_timeout);
    let deadline = begun + limit;
    let plan = Arc::new(understand(envelope, shared).await?);
    let ahead = Arc::new(Ahead::of(&plan));
    let artifacts = execute(envelope, shared, reporter, (plan.clone(), ahead.clone()), deadline).await?;
    if artifacts.device_lost.is_some() {
        *ended = Ended::Poisoned(FailureKind::DeviceLost);
    }
    let body_limit = match (envelope.delivery, shared.config.max_result_bytes) {
        (Delivery::Local, _) => None,
        (_, Some(limit)) => Some(limit),
        (Delivery::Queued, None) => Some(QUEUED_LIMIT),
        (Delivery::Waiting, None) => Some(WAITING_LIMIT),
    };
    output::render_for_delivery(artifacts, (&plan, ahead), &envelope.id, body_limit, shared.bucket.as_ref())
        .await
}

async fn understand(envelope: &Envelope, shared: &Shared) -> Result<Plan, Failure> {
    let (raw, limits) = (envelope.input.clone(), shared.limits);
    // Decoding a 50 megapixel photo takes a second of CPU: not on the thread that sends heartbeats.
    let planned = tokio::task::spawn_blocking(move || input::plan(&raw, &limits, rand::random::<u64>)).await;
    match planned {
        Ok(result) => result.map_err(Failure::from),
        Err(panic) => {
            Err(Failure::new(FailureKind::EnginePanic, format!("reading the input panicked: {panic}")))
        }
    }
}

async fn execute(
    envelope: &Envelope,
    shared: &Shared,
    reporter: &Reporter,
    (plan, ahead): (Arc<Plan>, Arc<Ahead>),
    deadline: Instant,
) -> Result<Artifacts, Failure> {
    let stop = &envelope.stop;
    let turn = tokio::select! {
        biased;
        reason = stop.stopped() => return Err(stopped(reason)),
        () = tokio::time::sleep_until(deadline) => {
            stop.stop(StopReason::Deadline);
            return Err(stopped(StopReason::Deadline));
        }
        turn = shared.executor.turn() => turn,
    };
    let tracker = Arc::new(Mutex::new(shared.statistics.tracker(&plan)));
    let ctx = {
        let (tracker, slot, began) = (tracker.clone(), reporter.slot(), std::time::Instant::now());
        Ctx::new(stop.clone(), move |event| {
            let report =
                tracker.lock().unwrap_or_else(PoisonError::into_inner).observe(event, began.elapsed());
            slot.put(report);
        })
        .showing(move |step, image| ahead.begin(step, image))
    };
    let result =
        run_with_deadline(turn, envelope, plan.clone(), ctx, deadline, shared.config.hang_grace).await;
    if result.is_ok() {
        shared.statistics.learn(&plan, &tracker.lock().unwrap_or_else(PoisonError::into_inner));
    }
    result
}

async fn run_with_deadline(
    turn: Turn<'_>,
    envelope: &Envelope,
    plan: Arc<Plan>,
    ctx: Ctx,
    deadline: Instant,
    hang_grace: Duration,
) -> Result<Artifacts, Failure> {
    let mut run = Box::pin(turn.run(plan, ctx));
    let reason = tokio::select! {
        biased;
        result = &mut run => return result.map_err(failure),
        reason = envelope.stop.stopped() => reason,
        () = tokio::time::sleep_until(deadline) => {
            envelope.stop.stop(StopReason::Deadline);
            StopReason::Deadline
        }
    };
    if let Ok(result) = tokio::time::timeout(hang_grace, &mut run).await {
        return result.map_err(failure);
    }
    drop(run);
    turn.abandon();
    let message = format!(
        "{reason}, and the engine did not stop within {} s; the worker is being replaced",
        hang_grace.as_secs_f64()
    );
    Err(Failure::new(FailureKind::EngineHung, message))
}

fn stopped(reason: StopReason) -> Failure {
    let (kind, message) = match reason {
        StopReason::Deadline => {
            (FailureKind::Deadline, "the job's time limit passed; raise it, or ask for fewer steps or pixels")
        }
        _ => (FailureKind::Shutdown, "the worker is shutting down before the job was done; send it again"),
    };
    Failure::new(kind, message)
}

fn failure(error: RunError) -> Failure {
    match error {
        RunError::Engine(EngineError::Stopped(reason)) => stopped(reason),
        RunError::Engine(error) => {
            Failure::new(error.kind().unwrap_or(FailureKind::Engine), error.to_string())
        }
        error @ RunError::Panic(_) => Failure::new(FailureKind::EnginePanic, error.to_string()),
        error @ RunError::Gone => Failure::new(FailureKind::EngineHung, error.to_string()),
    }
}

//! How a job can end, and what becomes of the worker then.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use marquee::engine::{Artifacts, EngineError};
use marquee::job::{Envelope, FailureKind, StopReason};
use marquee::progress::SubStep;
use marquee::source::{JobSource, Taken};
use marquee::worker::End;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::fakes::{RecordingSink, ScriptedSource, Told, job, painted, rig, run_all};

#[tokio::test]
async fn a_finished_run_is_delivered_once() {
    let sink = RecordingSink::new();
    let end = run_all(rig(&[], |plan, _| Ok(painted(plan))), vec![job("a", &sink)]).await;
    assert_eq!(end, End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("completed"));
}

#[tokio::test]
async fn bad_input_costs_no_engine() {
    let sink = RecordingSink::new();
    let mut bad = job("a", &sink);
    bad.input = json!({"width": 17});
    let rig = rig(&[], |plan, _| Ok(painted(plan)));
    let built = rig.built.clone();
    run_all(rig, vec![bad]).await;
    assert_eq!(sink.delivered().as_deref(), Some("failed:invalid_input"));
    assert_eq!(built.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_panic_fails_its_job_and_the_next_runs_on_a_fresh_engine() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let panicked = AtomicBool::new(false);
    let rig = rig(&[], move |plan, _| {
        assert!(panicked.swap(true, Ordering::SeqCst), "scripted panic");
        Ok(painted(plan))
    });
    let built = rig.built.clone();
    let end = run_all(rig, vec![job("a", &first), job("b", &second)]).await;
    assert_eq!(end, End::Drained);
    assert_eq!(first.delivered().as_deref(), Some("failed:engine_panic"));
    assert_eq!(second.delivered().as_deref(), Some("completed"));
    assert_eq!(built.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_engine_error_fails_its_job_alone() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let runs = AtomicUsize::new(0);
    let rig = rig(&[], move |plan, _| match runs.fetch_add(1, Ordering::SeqCst) {
        0 => Err(EngineError::OutOfMemory { sub_step: SubStep::Composition, message: "54 MB more".into() }),
        _ => Ok(painted(plan)),
    });
    let built = rig.built.clone();
    run_all(rig, vec![job("a", &first), job("b", &second)]).await;
    assert_eq!(first.delivered().as_deref(), Some("failed:out_of_memory"));
    assert_eq!(second.delivered().as_deref(), Some("completed"));
    assert_eq!(built.load(Ordering::SeqCst), 1, "an error must not cost the engine its models");
}

#[tokio::test]
async fn a_device_lost_after_the_pictures_were_safe_delivers_them_and_ends_the_worker() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let rig =
        rig(&[], |plan, _| Ok(Artifacts { device_lost: Some("illegal address".into()), ..painted(plan) }));
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &first), job("b", &second)])]).held();
    let end = rig.worker.run(Box::new(source), CancellationToken::new()).await;
    assert_eq!(end, End::Poisoned(FailureKind::DeviceLost));
    assert_eq!(first.delivered().as_deref(), Some("completed"));
    assert_eq!(second.delivered().as_deref(), Some("failed:shutdown"));
}

#[tokio::test]
async fn a_lost_device_ends_the_worker_and_hands_the_rest_back() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let rig = rig(&[], |_, _| {
        Err(EngineError::DeviceLost { sub_step: SubStep::TextGeneration, message: "illegal address".into() })
    });
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &first), job("b", &second)])]).held();
    let takes = source.takes.clone();
    let end = rig.worker.run(Box::new(source), CancellationToken::new()).await;
    assert_eq!(end, End::Poisoned(FailureKind::DeviceLost));
    assert_eq!(first.delivered().as_deref(), Some("failed:device_lost"));
    assert_eq!(second.delivered().as_deref(), Some("failed:shutdown"));
    assert_eq!(takes.lock().unwrap().len(), 1, "a poisoned worker must not take again");
}

#[tokio::test]
async fn a_run_past_its_time_limit_is_stopped_and_told_so() {
    let sink = RecordingSink::new();
    let rig = rig(&[("MARQUEE_JOB_TIMEOUT_S", "0.05")], |_, ctx| {
        loop {
            ctx.check()?;
            std::thread::yield_now();
        }
    });
    assert_eq!(run_all(rig, vec![job("a", &sink)]).await, End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("failed:deadline"));
}

#[tokio::test]
async fn the_senders_time_limit_counts() {
    let sink = RecordingSink::new();
    let mut limited = job("a", &sink);
    limited.time_limit = Some(Duration::from_millis(50));
    let rig = rig(&[], |_, ctx| {
        loop {
            ctx.check()?;
            std::thread::yield_now();
        }
    });
    run_all(rig, vec![limited]).await;
    assert_eq!(sink.delivered().as_deref(), Some("failed:deadline"));
}

/// Gives the second job only once the first is on the engine: either could get there first otherwise.
struct InTurn(Option<Envelope>, Option<Envelope>, Arc<Notify>);
#[async_trait::async_trait]
impl JobSource for InTurn {
    async fn take(&mut self, _: usize, _: bool, _: &CancellationToken) -> Taken {
        if let Some(first) = self.0.take() {
            return Taken::Jobs(vec![first]);
        }
        let Some(second) = self.1.take() else { return Taken::Exhausted };
        self.2.notified().await;
        Taken::Jobs(vec![second])
    }
}

#[tokio::test]
async fn an_engine_that_ignores_its_stop_is_hung_and_the_worker_is_replaced() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let (_never, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let hung = job("a", &first);
    let pull = hung.stop.clone();
    let started = Arc::new(Notify::new());
    let began = started.clone();
    let rig = rig(&[("MARQUEE_HANG_GRACE_S", "0.05"), ("MARQUEE_CONCURRENCY", "2")], move |plan, _| {
        began.notify_one();
        pull.stop(StopReason::Deadline);
        // Until the test's end drops the sender.
        let _ = gate.lock().unwrap().recv();
        Ok(painted(plan))
    });
    let source = InTurn(Some(hung), Some(job("b", &second)), started);
    let end = rig.worker.run(Box::new(source), CancellationToken::new()).await;
    assert_eq!(end, End::Poisoned(FailureKind::EngineHung));
    assert_eq!(first.delivered().as_deref(), Some("failed:engine_hung"));
    // On a busy machine the worker may be on its way out before it asks for a second job.
    let told = second.delivered();
    assert!(
        matches!(told.as_deref(), None | Some("failed:engine_hung" | "failed:shutdown")),
        "who waits for the engine is told: {told:?}"
    );
}

#[tokio::test]
async fn stopped_before_its_turn_a_job_never_reaches_the_engine() {
    let (first, second) = (RecordingSink::new(), RecordingSink::new());
    let stopped = job("b", &second);
    let pull = stopped.stop.clone();
    let (started, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (began, count) = (started.clone(), runs.clone());
    let rig = rig(&[("MARQUEE_CONCURRENCY", "2")], move |plan, _| {
        count.fetch_add(1, Ordering::SeqCst);
        pull.stop(StopReason::Requested);
        began.notify_one();
        Ok(painted(plan))
    });
    let source = InTurn(Some(job("a", &first)), Some(stopped), started);
    rig.worker.run(Box::new(source), CancellationToken::new()).await;
    assert_eq!(second.delivered().as_deref(), Some("stopped"));
    assert_eq!(first.delivered().as_deref(), Some("completed"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn stopped_mid_step_a_job_ends_at_the_next_check_and_sends_no_result() {
    let sink = RecordingSink::new();
    let running = job("a", &sink);
    let pull = running.stop.clone();
    let checks = Arc::new(AtomicUsize::new(0));
    let count = checks.clone();
    let rig = rig(&[], move |plan, ctx| {
        for step in 0..25 {
            ctx.check()?;
            count.fetch_add(1, Ordering::SeqCst);
            if step == 3 {
                pull.stop(StopReason::ClientGone);
            }
        }
        Ok(painted(plan))
    });
    run_all(rig, vec![running]).await;
    assert_eq!(sink.delivered().as_deref(), Some("stopped"));
    assert_eq!(checks.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_stop_after_the_result_went_out_changes_nothing() {
    let sink = RecordingSink::gated(0, 0);
    let done = job("a", &sink);
    let pull = done.stop.clone();
    let rig = rig(&[], |plan, _| Ok(painted(plan)));
    let run = tokio::spawn(run_all(rig, vec![done]));
    sink.until(|told| matches!(told.last(), Some(Told::Delivered(..)))).await;
    pull.stop(StopReason::Requested);
    sink.open_deliveries();
    assert_eq!(run.await.unwrap(), End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("completed"));
}

#[tokio::test]
async fn the_last_job_of_a_workers_share_asks_for_a_fresh_worker() {
    let sinks: Vec<_> = (0..3).map(|_| RecordingSink::new()).collect();
    let rig = rig(&[("MARQUEE_REFRESH_AFTER_JOBS", "2")], |plan, _| Ok(painted(plan)));
    let jobs = sinks.iter().enumerate().map(|(n, sink)| job(&n.to_string(), sink)).collect();
    assert_eq!(run_all(rig, jobs).await, End::Refresh);
    assert_eq!(sinks[0].told().last(), Some(&Told::Delivered("completed".into(), false)));
    assert_eq!(sinks[1].told().last(), Some(&Told::Delivered("completed".into(), true)));
    assert_eq!(sinks[2].delivered().as_deref(), Some("failed:shutdown"));
}

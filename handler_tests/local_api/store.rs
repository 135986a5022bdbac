//! Every transition of the state machine, without HTTP; the clock stands still unless advanced.

use std::sync::Arc;
use std::time::Duration;

use marquee::job::{FailureKind, JobId, Outcome, StopReason};
use marquee::sink::JobSink;
use marquee::source::http::{
    Assignment, Counts, JobState, Limits, Policy, RetryError, Store, StoreSink, Submission, SubmitError,
};
use proptest::prelude::*;
use serde_json::json;
use tokio::time::advance;

use super::{completed, failed, report};

const LIMITS: Limits = Limits {
    queued_jobs: 3,
    queued_bytes: 1_000,
    kept_jobs: 4,
    kept_bytes: 1 << 20,
    result_ttl: Duration::from_secs(60),
};

fn store(limits: Limits) -> Arc<Store> {
    Store::new(limits).0
}

fn job(number: u64) -> Submission {
    Submission {
        input: json!({ "number": number }),
        bytes: 10,
        policy: Policy::default(),
        webhook: None,
        waiting: false,
    }
}

fn take(store: &Arc<Store>) -> (Assignment, StoreSink) {
    let job = store.take(1).pop().expect("a job waits");
    let sink = StoreSink::new(Arc::clone(store), job.id.clone(), job.attempt);
    (job, sink)
}

async fn run(store: &Arc<Store>, outcome: Outcome) -> JobId {
    let id = store.submit(job(0)).unwrap();
    let (_, sink) = take(store);
    sink.deliver(&outcome, false).await.unwrap();
    id
}

fn state(store: &Store, id: &JobId) -> Option<JobState> {
    store.status(id.as_str()).map(|status| status.status)
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_from_queue_to_result_and_its_times_are_kept() {
    let store = store(LIMITS);
    let id = store.submit(job(7)).unwrap();
    advance(Duration::from_millis(250)).await;
    let waiting = store.status(id.as_str()).unwrap();
    assert_eq!((waiting.status, waiting.delay_time), (JobState::InQueue, 250));

    let (job, sink) = take(&store);
    assert_eq!(job.input["number"], 7);
    assert_eq!(state(&store, &id), Some(JobState::InProgress));
    sink.progress(&report(40.0)).await.unwrap();
    let running = store.status(id.as_str()).unwrap();
    assert!(running.output.unwrap().get().contains("\"percent\":40.0"));

    advance(Duration::from_millis(1_500)).await;
    sink.deliver(&completed(r#"{"images":{}}"#), false).await.unwrap();
    let done = store.status(id.as_str()).unwrap();
    assert_eq!(done.status, JobState::Completed);
    assert_eq!((done.delay_time, done.execution_time), (250, Some(1_500)));
    assert_eq!(done.output.unwrap().get(), r#"{"images":{}}"#);
    assert_eq!(store.counts(), Counts { completed: 1, ..Counts::default() });
}

#[tokio::test]
async fn jobs_come_in_order_and_at_most_as_many_as_wanted() {
    let store = store(LIMITS);
    for number in 0..3 {
        store.submit(job(number)).unwrap();
    }
    let numbers = |jobs: Vec<Assignment>| -> Vec<_> {
        jobs.iter().map(|job| job.input["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(store.take(2)), [0, 1]);
    assert_eq!(numbers(store.take(2)), [2]);
    assert_eq!(numbers(store.take(2)), [0; 0]);
}

#[tokio::test]
async fn the_queue_is_bounded_in_jobs_and_in_bytes() {
    let store = store(LIMITS);
    for number in 0..3 {
        store.submit(job(number)).unwrap();
    }
    assert_eq!(store.submit(job(3)), Err(SubmitError::QueueFull { jobs: 3, bytes: 30 }));
    store.take(1);
    store.submit(job(3)).expect("a job was taken, so there is room again");

    let store = self::store(LIMITS);
    let sized = |bytes| Submission { bytes, ..job(0) };
    store.submit(sized(600)).unwrap();
    assert_eq!(store.submit(sized(401)), Err(SubmitError::QueueFull { jobs: 1, bytes: 600 }));
    store.submit(sized(400)).expect("exactly full");
}

#[tokio::test]
async fn every_outcome_has_its_state() {
    let store = store(LIMITS);
    for (outcome, expected) in [
        (completed("{}"), JobState::Completed),
        (failed(FailureKind::Engine), JobState::Failed),
        (failed(FailureKind::Deadline), JobState::TimedOut),
        (Outcome::Stopped(StopReason::Requested), JobState::Cancelled),
        (Outcome::Stopped(StopReason::ClientGone), JobState::Cancelled),
        (Outcome::Stopped(StopReason::Deadline), JobState::TimedOut),
        (Outcome::Stopped(StopReason::Shutdown), JobState::Failed),
    ] {
        let name = format!("{outcome:?}");
        let id = run(&store, outcome).await;
        assert_eq!(state(&store, &id), Some(expected), "{name}");
    }
    let id = run(&store, failed(FailureKind::OutOfMemory)).await;
    let status = serde_json::to_value(store.status(id.as_str()).unwrap()).unwrap();
    assert_eq!(status["error"], "the engine gave up");
    assert_eq!(
        status["errorDetails"],
        json!({ "kind": "out_of_memory", "message": "the engine gave up", "details": { "step": 2 } })
    );
    assert!(status.get("output").is_none());
}

#[tokio::test(start_paused = true)]
async fn results_are_forgotten_after_their_time() {
    let store = store(LIMITS);
    let id = run(&store, completed("1")).await;
    advance(Duration::from_millis(59_999)).await;
    assert!(store.status(id.as_str()).is_some());
    advance(Duration::from_millis(1)).await;
    assert!(store.status(id.as_str()).is_none());
    assert_eq!(store.kept(), (0, 0));
}

#[tokio::test]
async fn kept_results_are_bounded_in_number_and_bytes() {
    let store = self::store(LIMITS);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(run(&store, completed("1")).await);
    }
    let kept: Vec<_> = ids.iter().map(|id| state(&store, id).is_some()).collect();
    assert_eq!(kept, [false, false, true, true, true, true], "the oldest go");

    let store = self::store(Limits { kept_bytes: 10_000, ..LIMITS });
    let small = run(&store, completed("1")).await;
    let large = run(&store, completed(&format!("\"{}\"", "x".repeat(9_000)))).await;
    assert!(state(&store, &small).is_none(), "both do not fit");
    assert!(state(&store, &large).is_some());
    let huge = run(&store, completed(&format!("\"{}\"", "x".repeat(90_000)))).await;
    assert!(state(&store, &large).is_none());
    assert!(state(&store, &huge).is_some(), "the newest is kept whatever its size");
    let next = run(&store, completed("1")).await;
    assert!(state(&store, &huge).is_none());
    assert!(state(&store, &next).is_some());
    assert!(store.kept().1 < 2_000);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_expires_waiting_jobs_and_limits_running_ones() {
    let store = store(LIMITS);
    let policy =
        Policy { execution_timeout: Some(Duration::from_secs(30)), ttl: Some(Duration::from_secs(20)) };
    let limited = || Submission { policy, ..job(0) };
    let expiring = store.submit(limited()).unwrap();
    advance(Duration::from_secs(20)).await;
    store.sweep();
    let status = store.status(expiring.as_str()).unwrap();
    assert_eq!(status.status, JobState::TimedOut);
    assert!(status.error.unwrap().contains("ttl"));
    assert!(store.take(1).is_empty(), "an expired job is not handed out");

    store.submit(limited()).unwrap();
    advance(Duration::from_secs(5)).await;
    assert_eq!(take(&store).0.time_limit, Some(Duration::from_secs(15)), "what is left of the ttl");
    let policy = Policy { execution_timeout: Some(Duration::from_secs(6)), ..Policy::default() };
    store.submit(Submission { policy, ..job(0) }).unwrap();
    assert_eq!(take(&store).0.time_limit, Some(Duration::from_secs(6)));
    store.submit(job(0)).unwrap();
    assert_eq!(take(&store).0.time_limit, None);
}

#[tokio::test]
async fn cancel_before_during_and_after() {
    let store = store(LIMITS);
    let before = store.submit(job(0)).unwrap();
    let status = store.cancel(before.as_str(), StopReason::Requested).unwrap();
    assert_eq!(status.status, JobState::Cancelled);
    assert!(store.take(1).is_empty(), "a cancelled job leaves the queue");

    let during = store.submit(job(1)).unwrap();
    let (job, sink) = take(&store);
    store.cancel(during.as_str(), StopReason::Requested);
    assert_eq!(job.stop.reason(), Some(StopReason::Requested));
    assert_eq!(state(&store, &during), Some(JobState::Cancelled));
    assert_eq!(store.counts().held, 1, "the worker has not let go of it");
    assert!(sink.progress(&report(50.0)).await.is_err());
    sink.deliver(&completed("1"), false).await.unwrap();
    assert_eq!(
        state(&store, &during),
        Some(JobState::Cancelled),
        "a result that was on its way changes nothing"
    );
    assert_eq!(store.counts(), Counts::default());

    let after = run(&store, completed("1")).await;
    let status = store.cancel(after.as_str(), StopReason::Requested).unwrap();
    assert_eq!(status.status, JobState::Completed);
    assert!(store.cancel("nobody", StopReason::Requested).is_none());
}

#[tokio::test]
async fn only_failures_can_be_retried_and_old_words_do_not_touch_the_new_run() {
    let store = store(LIMITS);
    let id = store.submit(job(5)).unwrap();
    let (_, first) = take(&store);
    first.deliver(&failed(FailureKind::Deadline), false).await.unwrap();
    assert_eq!(store.retry(id.as_str()), Ok(id.clone()));
    assert_eq!(state(&store, &id), Some(JobState::InQueue));
    assert_eq!(store.retry(id.as_str()), Err(RetryError::State(JobState::InQueue)));

    let (job, second) = take(&store);
    assert_eq!(job.input["number"], 5);
    assert!(first.progress(&report(1.0)).await.is_err(), "the first run is over");
    second.deliver(&completed("2"), false).await.unwrap();
    let status = store.status(id.as_str()).unwrap();
    assert_eq!((status.status, status.error), (JobState::Completed, None));
    assert_eq!(store.counts().retried, 1);
    assert_eq!(store.retry(id.as_str()), Err(RetryError::State(JobState::Completed)));

    let cancelled = run(&store, Outcome::Stopped(StopReason::Requested)).await;
    assert_eq!(store.retry(cancelled.as_str()), Err(RetryError::State(JobState::Cancelled)));
    assert_eq!(store.retry("nobody"), Err(RetryError::Unknown));
}

#[tokio::test]
async fn a_retry_needs_room_in_the_queue() {
    let store = store(LIMITS);
    let id = run(&store, failed(FailureKind::Engine)).await;
    for number in 0..3 {
        store.submit(job(number)).unwrap();
    }
    assert!(matches!(store.retry(id.as_str()), Err(RetryError::Submit(SubmitError::QueueFull { .. }))));
    assert_eq!(state(&store, &id), Some(JobState::Failed), "a refused retry changes nothing");
}

#[tokio::test]
async fn purge_cancels_what_waits_and_leaves_what_runs() {
    let store = store(LIMITS);
    let running = store.submit(job(0)).unwrap();
    let (_job, _sink) = take(&store);
    let waiting = [store.submit(job(1)).unwrap(), store.submit(job(2)).unwrap()];
    assert_eq!(store.purge(), 2);
    assert_eq!(store.purge(), 0);
    assert!(waiting.iter().all(|id| state(&store, id) == Some(JobState::Cancelled)));
    assert_eq!(state(&store, &running), Some(JobState::InProgress));
    for number in 0..3 {
        store.submit(job(number)).expect("the queue is empty again");
    }
}

#[tokio::test]
async fn a_stream_hands_out_each_report_once_then_the_result() {
    let store = store(LIMITS);
    let id = store.submit(job(0)).unwrap();
    let chunks = || {
        let reply = store.stream(id.as_str()).unwrap();
        (reply.status, reply.stream.iter().map(|chunk| chunk.output.get().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(chunks(), (JobState::InQueue, vec![]));
    let (_, sink) = take(&store);
    sink.progress(&report(10.0)).await.unwrap();
    sink.progress(&report(20.0)).await.unwrap();
    let (state, reports) = chunks();
    assert_eq!((state, reports.len()), (JobState::InProgress, 2));
    assert!(reports[0].contains("10.0") && reports[1].contains("20.0"));
    assert_eq!(chunks(), (JobState::InProgress, vec![]));
    sink.deliver(&completed("[1]"), false).await.unwrap();
    assert_eq!(chunks(), (JobState::Completed, vec!["[1]".to_owned()]));
    assert_eq!(chunks(), (JobState::Completed, vec![]));

    for percent in 0..500 {
        let id = store.submit(job(0)).unwrap();
        let (_, sink) = take(&store);
        for _ in 0..percent % 100 {
            sink.progress(&report(f64::from(percent))).await.unwrap();
        }
        assert!(store.stream(id.as_str()).unwrap().stream.len() <= 64, "nobody reads: reports are bounded");
    }
}

#[tokio::test]
async fn a_cancelled_stream_ends_for_a_client_that_does_not_know_cancelled() {
    let store = store(LIMITS);
    let id = store.submit(job(0)).unwrap();
    store.cancel(id.as_str(), StopReason::Requested);
    let reply = store.stream(id.as_str()).unwrap();
    assert_eq!((reply.status, reply.stream.len()), (JobState::Failed, 0));
    assert_eq!(reply.error.unwrap(), "cancelled on request");
}

#[tokio::test]
async fn a_job_whose_worker_vanished_has_failed() {
    let store = store(LIMITS);
    let id = store.submit(job(0)).unwrap();
    drop(take(&store));
    assert_eq!(state(&store, &id), Some(JobState::Failed));
    assert_eq!(store.counts().held, 0);
}

#[tokio::test]
async fn a_closed_store_fails_what_waits_and_refuses_the_rest() {
    let store = store(LIMITS);
    let running = store.submit(job(0)).unwrap();
    let (_, sink) = take(&store);
    let waiting = store.submit(job(1)).unwrap();
    store.close();
    assert_eq!(state(&store, &waiting), Some(JobState::Failed));
    assert_eq!(store.submit(job(2)), Err(SubmitError::Closed));
    sink.deliver(&completed("1"), false).await.unwrap();
    assert_eq!(state(&store, &running), Some(JobState::Completed));
}

#[derive(Debug, Clone)]
enum Op {
    Submit { bytes: usize, ttl: bool },
    Take(usize),
    Deliver(usize, u8),
    Drop(usize),
    Cancel(usize),
    Retry(usize),
    Purge,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..700_usize, any::<bool>()).prop_map(|(bytes, ttl)| Op::Submit { bytes, ttl }),
        3 => (1..3_usize).prop_map(Op::Take),
        3 => (any::<usize>(), 0..4_u8).prop_map(|(which, how)| Op::Deliver(which, how)),
        1 => any::<usize>().prop_map(Op::Drop),
        2 => any::<usize>().prop_map(Op::Cancel),
        2 => any::<usize>().prop_map(Op::Retry),
        1 => Just(Op::Purge),
        2 => (1..30_u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, the bounds hold and the accounts end at zero.
    #[test]
    fn accounts_balance_after_any_history(ops in prop::collection::vec(op(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = store(Limits { kept_bytes: 6_000, ..LIMITS });
            let mut ids = Vec::new();
            let mut sinks = Vec::new();
            for op in ops {
                match op {
                    Op::Submit { bytes, ttl } => {
                        let policy = Policy { ttl: ttl.then_some(Duration::from_secs(20)), ..Policy::default() };
                        ids.extend(store.submit(Submission { bytes, policy, ..job(0) }));
                    }
                    Op::Take(want) => sinks.extend(store.take(want).into_iter().map(|job| {
                        StoreSink::new(Arc::clone(&store), job.id, job.attempt)
                    })),
                    Op::Deliver(which, how) if !sinks.is_empty() => {
                        let sink = sinks.swap_remove(which % sinks.len());
                        let outcome = match how {
                            0 => completed(&format!("\"{}\"", "x".repeat(which % 3_000))),
                            1 => failed(FailureKind::Engine),
                            2 => failed(FailureKind::Deadline),
                            _ => Outcome::Stopped(StopReason::Requested),
                        };
                        sink.progress(&report(1.0)).await.ok();
                        sink.deliver(&outcome, false).await.unwrap();
                    }
                    Op::Drop(which) if !sinks.is_empty() => drop(sinks.swap_remove(which % sinks.len())),
                    Op::Cancel(which) if !ids.is_empty() => {
                        store.cancel(ids[which % ids.len()].as_str(), StopReason::Requested);
                    }
                    Op::Retry(which) if !ids.is_empty() => {
                        store.retry(ids[which % ids.len()].as_str()).ok();
                    }
                    Op::Purge => drop(store.purge()),
                    Op::Wait(seconds) => {
                        advance(Duration::from_secs(seconds)).await;
                        store.sweep();
                    }
                    _ => {}
                }
                let counts = store.counts();
                assert!(counts.in_queue <= 3 && counts.held == sinks.len() && counts.in_progress <= counts.held);
                let (jobs, bytes) = store.kept();
                assert!(jobs <= 4 && (bytes <= 6_000 || jobs == 1), "{jobs} jobs, {bytes} bytes kept");
            }
            drop(sinks);
            store.purge();
            advance(LIMITS.result_ttl).await;
            assert_eq!(store.kept(), (0, 0));
            assert!(ids.iter().all(|id| store.status(id.as_str()).is_none()), "nothing leaks");
            store.submit(Submission { bytes: 1_000, ..job(0) }).expect("no byte is still accounted to the queue");
        });
    }
}

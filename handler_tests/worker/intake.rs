//! Asking for jobs: only with a free permit, never in a storm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use marquee::source::{TakeError, Taken};
use marquee::worker::End;
use tokio_util::sync::CancellationToken;

use crate::support::fakes::{RecordingSink, ScriptedSource, job, painted, rig};

fn refused() -> Taken {
    Taken::Failed(TakeError::Transport { url: "http://endpoint".into(), reason: "refused".into() })
}

/// Takes within the first `seconds` of virtual time.
async fn takes_within(seconds: u64, answer: fn() -> Taken) -> usize {
    let source = ScriptedSource::repeating(answer);
    let takes = source.takes.clone();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        stop.cancel();
    });
    let rig = rig(&[], |plan, _| Ok(painted(plan)));
    assert_eq!(rig.worker.run(Box::new(source), shutdown).await, End::Drained);
    takes.lock().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_at_once_is_asked_at_most_twice_a_second_and_ever_less() {
    let (first, ten, minutes) =
        (takes_within(1, refused).await, takes_within(10, refused).await, takes_within(300, refused).await);
    assert!((1..=2).contains(&first), "{first} in the first second");
    assert!(ten <= 6, "{ten} in ten seconds");
    assert!(minutes <= 20, "{minutes} in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_holds_its_polls_is_asked_about_once_a_second() {
    let minute = takes_within(60, || Taken::Nothing).await;
    assert!((30..=90).contains(&minute), "{minute} in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_kept_to_the_second() {
    assert_eq!(takes_within(59, || Taken::RateLimited(Duration::from_secs(5))).await, 12);
}

#[tokio::test]
async fn more_jobs_than_asked_for_run_one_after_the_other_and_nothing_is_taken_meanwhile() {
    let sinks: Vec<_> = (0..4).map(|_| RecordingSink::new()).collect();
    let jobs = sinks.iter().enumerate().map(|(n, sink)| job(&n.to_string(), sink)).collect();
    let source = ScriptedSource::of([Taken::Jobs(jobs)]);
    let takes = source.takes.clone();
    let running = Arc::new(AtomicUsize::new(0));
    let seen = takes.clone();
    let rig = rig(&[], move |plan, _| {
        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two runs at once");
        assert_eq!(seen.lock().unwrap().len(), 1, "asked again while jobs wait");
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(painted(plan))
    });
    rig.worker.run(Box::new(source), CancellationToken::new()).await;
    for sink in &sinks {
        assert_eq!(sink.delivered().as_deref(), Some("completed"));
    }
    assert_eq!(takes.lock().unwrap()[0], (1, false));
}

#[tokio::test]
async fn free_permits_are_asked_for_together_and_busy_is_told() {
    let sink = RecordingSink::gated(0, 0);
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &sink)])]).held();
    let takes = source.takes.clone();
    let shutdown = CancellationToken::new();
    let rig = rig(&[("MARQUEE_CONCURRENCY", "3")], |plan, _| Ok(painted(plan)));
    let run = tokio::spawn(rig.worker.run(Box::new(source), shutdown.clone()));
    sink.until(|told| !told.is_empty()).await;
    shutdown.cancel();
    sink.open_deliveries();
    run.await.unwrap();
    assert_eq!(takes.lock().unwrap().as_slice(), [(3, false), (2, true)]);
}

//! Shutdown with work in flight. The signals themselves are tested on the process (`cli`).

use std::time::Duration;

use marquee::source::Taken;
use marquee::worker::End;
use tokio_util::sync::CancellationToken;

use crate::support::fakes::{RecordingSink, ScriptedSource, Told, job, painted, rig};

#[tokio::test(start_paused = true)]
async fn idle_it_ends_at_once() {
    let shutdown = CancellationToken::new();
    let rig = rig(&[], |plan, _| Ok(painted(plan)));
    let run = tokio::spawn(rig.worker.run(Box::new(ScriptedSource::of([]).held()), shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = tokio::time::Instant::now();
    shutdown.cancel();
    assert_eq!(run.await.unwrap(), End::Drained);
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn mid_step_the_job_is_stopped_before_the_grace_ends_and_handed_back() {
    let sink = RecordingSink::new();
    let shutdown = CancellationToken::new();
    let fire = shutdown.clone();
    let rig = rig(&[("MARQUEE_SHUTDOWN_GRACE_S", "1")], move |_, ctx| {
        fire.cancel();
        loop {
            ctx.check()?;
            std::thread::yield_now();
        }
    });
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &sink)])]).held();
    assert_eq!(rig.worker.run(Box::new(source), shutdown).await, End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("failed:shutdown"));
}

#[tokio::test]
async fn a_job_that_is_nearly_done_may_finish() {
    let sink = RecordingSink::new();
    let shutdown = CancellationToken::new();
    let fire = shutdown.clone();
    let rig = rig(&[("MARQUEE_SHUTDOWN_GRACE_S", "60")], move |plan, _| {
        fire.cancel();
        Ok(painted(plan))
    });
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &sink)])]).held();
    assert_eq!(rig.worker.run(Box::new(source), shutdown).await, End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("completed"));
}

#[tokio::test]
async fn while_posting_the_result_still_goes_out() {
    let sink = RecordingSink::gated(0, 0);
    let shutdown = CancellationToken::new();
    let rig = rig(&[("MARQUEE_SHUTDOWN_GRACE_S", "60")], |plan, _| Ok(painted(plan)));
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &sink)])]).held();
    let run = tokio::spawn(rig.worker.run(Box::new(source), shutdown.clone()));
    sink.until(|told| matches!(told.last(), Some(Told::Delivered(..)))).await;
    shutdown.cancel();
    tokio::task::yield_now().await;
    assert!(!run.is_finished());
    sink.open_deliveries();
    assert_eq!(run.await.unwrap(), End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("completed"));
}

#[tokio::test]
async fn a_job_that_arrives_with_the_signal_is_handed_back() {
    struct LateSource(Option<Taken>);
    #[async_trait::async_trait]
    impl marquee::source::JobSource for LateSource {
        async fn take(&mut self, _: usize, _: bool, shutdown: &CancellationToken) -> Taken {
            shutdown.cancelled().await;
            self.0.take().unwrap_or(Taken::Nothing)
        }
    }
    let sink = RecordingSink::new();
    let shutdown = CancellationToken::new();
    let rig = rig(&[], |plan, _| Ok(painted(plan)));
    let source = LateSource(Some(Taken::Jobs(vec![job("a", &sink)])));
    let run = tokio::spawn(rig.worker.run(Box::new(source), shutdown.clone()));
    tokio::task::yield_now().await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap(), End::Drained);
    assert_eq!(sink.delivered().as_deref(), Some("failed:shutdown"));
}

#[tokio::test]
async fn a_result_that_cannot_be_delivered_does_not_outlast_the_grace() {
    let sink = RecordingSink::gated(0, 0);
    let shutdown = CancellationToken::new();
    let rig = rig(&[("MARQUEE_SHUTDOWN_GRACE_S", "0.2")], |plan, _| Ok(painted(plan)));
    let source = ScriptedSource::of([Taken::Jobs(vec![job("a", &sink)])]).held();
    let run = tokio::spawn(rig.worker.run(Box::new(source), shutdown.clone()));
    sink.until(|told| matches!(told.last(), Some(Told::Delivered(..)))).await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap(), End::GraceExceeded(1));
}

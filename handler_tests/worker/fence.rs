//! Nothing of a job is sent after its result, whatever the network does.

use std::sync::Arc;
use std::time::Duration;

use marquee::job::{Outcome, StopReason};
use marquee::progress::{ProgressReport, SubStep};
use marquee::sink::{DeliveryError, JobSink};
use marquee::worker::Reporter;
use proptest::prelude::*;
use serde_json::Value;

use crate::support::fakes::{RecordingSink, Told, job, painted, rig, run_all};

fn report(percent: f64) -> ProgressReport {
    ProgressReport {
        percent,
        current_step: "step1_background",
        sub_step: String::new(),
        message: String::new(),
        eta_seconds: None,
        step_eta_seconds: None,
        system_metrics: Value::Null,
    }
}

#[tokio::test]
async fn twenty_jobs_with_five_updates_each_send_none_of_them_late() {
    let sinks: Vec<_> = (0..20).map(|_| RecordingSink::new()).collect();
    let jobs = sinks.iter().enumerate().map(|(n, sink)| job(&n.to_string(), sink)).collect();
    let rig = rig(&[("MARQUEE_PROGRESS_INTERVAL_MS", "0")], |plan, ctx| {
        for done in 1..=5 {
            ctx.progress(SubStep::BackgroundGeneration, done, 5);
            std::thread::yield_now();
        }
        Ok(painted(plan))
    });
    run_all(rig, jobs).await;
    for sink in sinks {
        assert!(matches!(sink.told().last(), Some(Told::Delivered(..))), "{:?}", sink.told());
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_never_answered_holds_the_result_back_for_five_seconds_at_most() {
    let sink = RecordingSink::gated(0, 1);
    let reporter = Reporter::start(sink.clone(), Arc::default(), Duration::ZERO);
    reporter.slot().put(report(10.0));
    sink.until(|told| !told.is_empty()).await;
    let asked = tokio::time::Instant::now();
    reporter.fence().await;
    assert_eq!(asked.elapsed(), Duration::from_secs(5));
    assert_eq!(sink.told(), [Told::Progress(10.0)]);
}

#[tokio::test(start_paused = true)]
async fn the_latest_report_wins_and_the_interval_is_kept() {
    let sink = RecordingSink::new();
    let reporter = Reporter::start(sink.clone(), Arc::default(), Duration::from_millis(500));
    let slot = reporter.slot();
    for percent in 0..100 {
        slot.put(report(f64::from(percent)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reporter.fence().await;
    let sent: Vec<f64> = sink
        .told()
        .into_iter()
        .filter_map(|told| if let Told::Progress(percent) = told { Some(percent) } else { None })
        .collect();
    // 2 s of reports at one a half second.
    assert!((4..=5).contains(&sent.len()), "{sent:?}");
    assert!(sent.is_sorted(), "{sent:?}");
}

/// Answers each report after its scripted delay.
struct SlowSink {
    delays_ms: Vec<u64>,
    inner: Arc<RecordingSink>,
}

#[async_trait::async_trait]
impl JobSink for SlowSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        let sent = self.inner.told().len() / 2;
        let delay = self.delays_ms.get(sent).copied().unwrap_or(0);
        self.inner.progress(report).await?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        Ok(())
    }

    async fn deliver(&self, outcome: &Outcome, refresh: bool) -> Result<(), DeliveryError> {
        self.inner.deliver(outcome, refresh).await
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Reports at random moments over a network with random delays: the outcome is last, and reports are in order.
    #[test]
    fn no_interleaving_puts_progress_after_the_result(
        pauses_ms in prop::collection::vec(0_u64..40, 0..30),
        delays_ms in prop::collection::vec(0_u64..200, 0..30),
        interval_ms in 0_u64..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let told = runtime.block_on(async {
            let inner = RecordingSink::new();
            let sink = Arc::new(SlowSink { delays_ms, inner: inner.clone() });
            let reporter = Reporter::start(sink.clone(), Arc::default(), Duration::from_millis(interval_ms));
            let slot = reporter.slot();
            for (n, pause) in pauses_ms.iter().enumerate() {
                slot.put(report(n as f64));
                tokio::time::sleep(Duration::from_millis(*pause)).await;
            }
            reporter.fence().await;
            sink.deliver(&Outcome::Stopped(StopReason::Requested), false).await.unwrap();
            // A late engine callback and anything still under way would show here.
            slot.put(report(1000.0));
            tokio::time::sleep(Duration::from_secs(60)).await;
            inner.told()
        });
        prop_assert!(matches!(told.last(), Some(Told::Delivered(..))), "{:?}", told);
        let sent: Vec<f64> = told.iter().filter_map(|t| if let Told::Progress(p) = t { Some(*p) } else { None }).collect();
        prop_assert!(sent.is_sorted(), "{:?}", sent);
    }
}

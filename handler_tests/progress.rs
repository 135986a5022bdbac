//! Percent, forecast and wording of progress, and the statistics behind the forecast.

use std::time::Duration;

use marquee::input::{InputLimits, Plan, plan};
use marquee::progress::{Metrics, ProgressEvent, ProgressReport, Statistics, SubStep, Tracker, meminfo};
use proptest::prelude::*;
use serde_json::json;

use crate::support::fakes::config;

fn full_plan() -> Plan {
    let raw = json!({"test_mode": true, "text_content": "Sale", "bg_steps": 25, "text_steps": 30, "seed": 1});
    plan(&raw, &InputLimits::from(&config(&[]).engine), || 1).unwrap()
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn event(sub_step: SubStep, done: u32, total: u32) -> ProgressEvent {
    ProgressEvent { sub_step, done, total }
}

#[test]
fn a_report_names_step_sub_step_and_count() {
    let mut tracker = Tracker::new(&full_plan(), |_| None);
    let report = tracker.observe(event(SubStep::BackgroundGeneration, 7, 25), at(1.0));
    assert_eq!(report.current_step, "step1_background");
    assert_eq!(report.sub_step, "flux_background (7/25)");
    assert_eq!(report.message, "Painting the background");
}

#[test]
fn an_unknown_kind_of_job_has_no_forecast_but_the_running_sub_step_has() {
    let mut tracker = Tracker::new(&full_plan(), |_| None);
    tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
    let report = tracker.observe(event(SubStep::BackgroundGeneration, 5, 25), at(10.0));
    assert_eq!(report.eta_seconds, None);
    // 2 s a step, 20 steps left, and nothing else in step 1.
    assert_eq!(report.step_eta_seconds, Some(40.0));
}

#[test]
fn a_known_kind_of_job_is_forecast_from_the_first_report() {
    let mut tracker = Tracker::new(&full_plan(), |_| Some(1.0));
    let report = tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
    // 25 + canvas 1 + 30 + segmentation 1 + 12 of 28 composition steps (strength 0.4).
    assert_eq!(report.eta_seconds, Some(69.0));
    assert_eq!(report.step_eta_seconds, Some(25.0));
}

#[test]
fn what_this_run_measures_replaces_what_earlier_runs_did() {
    let mut tracker = Tracker::new(&full_plan(), |_| Some(1.0));
    tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
    let report = tracker.observe(event(SubStep::BackgroundGeneration, 5, 25), at(15.0));
    assert_eq!(report.step_eta_seconds, Some(60.0));
}

proptest! {
    /// Whatever the engine says, in whatever order: percent stays within 0..=100 and never falls.
    #[test]
    fn percent_never_falls(events in prop::collection::vec((0_usize..7, 0_u32..60, 0_u32..60, 0_u32..100), 1..80), known in any::<bool>()) {
        let mut tracker = Tracker::new(&full_plan(), |_| known.then_some(0.5));
        let mut last = 0.0;
        let mut now = 0.0;
        for (which, done, total, pause) in events {
            now += f64::from(pause);
            let report: ProgressReport = tracker.observe(event(SubStep::ALL[which], done, total), at(now));
            prop_assert!(report.percent >= last && report.percent <= 100.0, "{} after {last}", report.percent);
            last = report.percent;
        }
    }
}

#[test]
fn a_whole_run_ends_at_one_hundred() {
    let plan = full_plan();
    let mut tracker = Tracker::new(&plan, |_| None);
    let mut last = 0.0;
    for (sub_step, units) in plan.sub_steps() {
        for done in 0..=units {
            last = tracker.observe(event(sub_step, done, units), at(0.0)).percent;
        }
    }
    assert!((last - 100.0).abs() < f64::EPSILON, "{last}");
}

#[test]
fn statistics_survive_the_process_and_lean_to_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.json");
    let plan = full_plan();
    let learn = |unit_seconds: f64| {
        let statistics = Statistics::open(Some(path.clone()));
        let mut tracker = statistics.tracker(&plan);
        tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
        tracker.observe(event(SubStep::BackgroundGeneration, 25, 25), at(25.0 * unit_seconds));
        statistics.learn(&plan, &tracker);
        statistics.save().unwrap();
    };
    learn(1.0);
    learn(2.0);
    let mut tracker = Statistics::open(Some(path)).tracker(&plan);
    let report = tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
    // 1 + 0.3 x (2 - 1) seconds a step.
    assert_eq!(report.step_eta_seconds, Some(32.5));
}

#[test]
fn damaged_statistics_start_afresh() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.json");
    for damage in ["", "{", "[]", r#"{"version":9,"kinds":{}}"#, "\u{0}\u{0}"] {
        std::fs::write(&path, damage).unwrap();
        let mut tracker = Statistics::open(Some(path.clone())).tracker(&full_plan());
        let report = tracker.observe(event(SubStep::BackgroundGeneration, 0, 25), at(0.0));
        assert_eq!(report.step_eta_seconds, None, "{damage}");
    }
}

#[test]
fn a_failed_save_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.json");
    // A folder in the file's place: the rename fails after the writing went well.
    std::fs::create_dir_all(path.join("x")).unwrap();
    assert!(Statistics::open(Some(path)).save().is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn memory_is_read_from_the_kernels_words() {
    let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   12288000 kB\n";
    assert_eq!(meminfo(text), Some((24_576_000 * 1024, 12_288_000 * 1024)));
    assert_eq!(meminfo("MemTotal: many kB"), None);
}

#[cfg(target_os = "linux")]
#[test]
fn metrics_name_what_a_reader_of_progress_needs() {
    let metrics = Metrics::default();
    metrics.read();
    let second = metrics.read();
    for name in ["host_memory_used_bytes", "host_memory_total_bytes", "process_memory_bytes"] {
        assert!(second[name].as_u64().is_some_and(|bytes| bytes > 0), "{name} in {second}");
    }
}

//! SIGTERM on the process: idle, mid-step, while posting, and with a job on its way.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::{is_result, marquee, terminate};
use crate::support::endpoint::{Endpoint, Recorded, Reply, Route};

fn spawn(endpoint: &Endpoint, home: &std::path::Path, vars: &[(&str, &str)]) -> Child {
    let mut command = marquee(home);
    command.envs(endpoint.vars()).envs(vars.iter().copied()).env("RUNPOD_LOG_LEVEL", "ERROR");
    command.env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true");
    command.spawn().unwrap()
}

fn job(id: &str, steps: u32) -> Value {
    json!({"id": id, "input": {"test_mode": true, "stop_step": 1, "width": 256, "height": 256, "bg_steps": steps}})
}

async fn exit_code(mut child: Child) -> Option<i32> {
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    ended.expect("the process did not end").unwrap().code()
}

#[tokio::test]
async fn idle_with_a_take_held_open_it_ends_clean() {
    let endpoint = Endpoint::start().await;
    let home = tempfile::tempdir().unwrap();
    let worker = spawn(&endpoint, home.path(), &[]);
    endpoint.wait_for(Route::Take, 1).await;
    terminate(&worker);
    assert_eq!(exit_code(worker).await, Some(0));
    assert!(endpoint.results().is_empty());
}

#[tokio::test]
async fn mid_step_the_job_is_handed_back_as_an_error() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(job("long", 50));
    let home = tempfile::tempdir().unwrap();
    let vars = [("TEST_MODE_STEP_MS", "60000"), ("MARQUEE_SHUTDOWN_GRACE_S", "1.5")];
    let worker = spawn(&endpoint, home.path(), &vars);
    endpoint.until(|seen| seen.iter().any(Recorded::is_progress)).await;
    terminate(&worker);
    assert_eq!(exit_code(worker).await, Some(0));
    let results = endpoint.results();
    assert_eq!(results.len(), 1);
    let error = results[0].json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("shutdown"), "{error}");
}

#[tokio::test]
async fn while_posting_the_result_is_still_delivered() {
    let endpoint = Endpoint::start().await;
    endpoint.script(Route::Done, [Reply::status(503), Reply::status(503)]);
    endpoint.push_job(job("posted", 1));
    let home = tempfile::tempdir().unwrap();
    // No progress: the scripted refusals are for the result.
    let vars = [("MARQUEE_PROGRESS_INTERVAL_MS", "60000"), ("MARQUEE_SHUTDOWN_GRACE_S", "50")];
    let worker = spawn(&endpoint, home.path(), &vars);
    endpoint.until(|seen| seen.iter().any(is_result)).await;
    terminate(&worker);
    assert_eq!(exit_code(worker).await, Some(0));
    let results = endpoint.results();
    assert!(results.len() >= 2, "delivered on the first try: nothing was tested");
    assert!(results.iter().all(|result| result.body == results[0].body), "a resend differs");
    assert_eq!(results[0].json()["output"]["status"], "completed");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(job("long", 50));
    let home = tempfile::tempdir().unwrap();
    let vars = [("TEST_MODE_STEP_MS", "60000"), ("MARQUEE_SHUTDOWN_GRACE_S", "3000")];
    let mut command = marquee(home.path());
    command.envs(endpoint.vars()).envs(vars).env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true");
    let mut worker = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    endpoint.until(|seen| seen.iter().any(Recorded::is_progress)).await;
    terminate(&worker);
    // Two signals sent together may be delivered as one: the second waits until the first was noticed.
    while !lines.next_line().await.unwrap().expect("the worker ended early").contains("SIGTERM") {}
    terminate(&worker);
    assert_eq!(exit_code(worker).await, Some(143));
}

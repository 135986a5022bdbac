//! Which mode is meant, in the SDK's order, and the modes end to end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{finish, is_result, marquee, terminate};
use crate::support::endpoint::{Endpoint, Route};

const SMALL: &str = r#"{"input": {"test_mode": true, "stop_step": 1, "width": 256, "height": 256, "seed": 5, "bg_steps": 5}}"#;

fn printed_result(stdout: &str) -> Value {
    let line = stdout
        .lines()
        .find_map(|line| line.strip_prefix("Job result: "))
        .unwrap_or_else(|| panic!("{stdout}"));
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn test_input_is_run_and_printed() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.args(["--test_input", SMALL, "--rp_log_level", "ERROR"]);
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 0, "{stdout}");
    let result = printed_result(&stdout);
    assert_eq!(result["output"]["status"], "completed");
    assert!(result["output"]["images"]["final_result"].as_str().unwrap().len() > 1000);
}

#[tokio::test]
async fn without_an_endpoint_the_working_folders_test_input_is_run() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("test_input.json"), SMALL).unwrap();
    let (code, stdout, _) = finish(marquee(home.path())).await;
    assert_eq!(code, 0, "{stdout}");
    assert_eq!(printed_result(&stdout)["output"]["seed"], 5);
}

#[tokio::test]
async fn with_nothing_to_run_it_says_so_and_exits_with_1() {
    let home = tempfile::tempdir().unwrap();
    let (code, stdout, _) = finish(marquee(home.path())).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("test_input.json") && stdout.contains("RUNPOD_WEBHOOK_GET_JOB"), "{stdout}");
}

#[tokio::test]
async fn a_failed_local_job_exits_with_1() {
    let home = tempfile::tempdir().unwrap();
    for bad in [r#"{"input": {"width": 1}}"#, r#"{"input": null}"#, "{", "[]"] {
        let mut command = marquee(home.path());
        command.args(["--test_input", bad]);
        assert_eq!(finish(command).await.0, 1, "{bad}");
    }
}

#[tokio::test]
async fn a_worker_takes_runs_and_posts_and_its_log_is_json() {
    let endpoint = Endpoint::start().await;
    endpoint
        .push_job(json!({"id": "job-1", "input": serde_json::from_str::<Value>(SMALL).unwrap()["input"]}));
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.envs(endpoint.vars());
    command.stdout(std::process::Stdio::piped());
    let mut worker = command.spawn().unwrap();
    endpoint.until(|seen| seen.iter().any(is_result)).await;
    let result = endpoint.results()[0].json();
    assert_eq!(result["output"]["status"], "completed", "{result}");
    terminate(&worker);
    assert_eq!(worker.wait().await.unwrap().code(), Some(0));
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let mut about_job = 0;
    while let Some(line) = lines.next_line().await.unwrap() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
        about_job += usize::from(line["requestId"] == "job-1");
    }
    assert!(about_job > 0, "no line names the job");
}

#[tokio::test]
async fn an_unfit_machine_reports_itself_and_exits_with_1_before_the_first_take() {
    let endpoint = Endpoint::start().await;
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.envs(endpoint.vars()).env_remove("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS");
    command.env("RUNPOD_MIN_MEMORY_GB", "999999");
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 1, "{stdout}");
    assert!(endpoint.on(Route::Take).is_empty());
    let ping = &endpoint.on(Route::Ping)[0];
    assert!(
        ping.target.contains("status=unhealthy") && ping.target.contains("check=_memory_check"),
        "{}",
        ping.target
    );
}

#[tokio::test]
async fn serve_answers_on_loopback_and_ends_on_sigterm() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.args(["--rp_serve_api", "--rp_api_port", "0"]).stdout(std::process::Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = loop {
        let line = lines.next_line().await.unwrap().expect("the server ended early");
        if let Some(url) = line.strip_prefix("listening on ") {
            break url.to_owned();
        }
    };
    assert!(url.contains("127.0.0.1") || url.contains("[::1]"), "{url}");
    let client = marquee::http_client::client().unwrap();
    let answer = client
        .post(format!("{url}/runsync"))
        .header("content-type", "application/json")
        .body(SMALL)
        .timeout(Duration::from_secs(60))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(answer["status"], "COMPLETED", "{answer}");
    terminate(&server);
    assert_eq!(server.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.args(["serve", "--host", "127.0.0.1", "--port", &port]);
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 1);
    assert!(stdout.contains(&port) && stdout.contains("in use"), "{stdout}");
}

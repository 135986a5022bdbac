//! What goes over the wire to a RunPod endpoint, request by request.

use std::time::Duration;

use marquee::config::Config;
use marquee::http_client;
use marquee::job::{Delivery, Envelope, Failure, FailureKind, JobId, Outcome, StopReason};
use marquee::progress::ProgressReport;
use marquee::source::runpod::fitness::FitnessFailure;
use marquee::source::runpod::{self, RunPodSource, Urls};
use marquee::source::{JobSource, Taken};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::endpoint::{Endpoint, Recorded, Route};

/// A source on `vars` with `extra` variables in their place or besides them.
pub fn source(mut vars: Vec<(String, String)>, extra: &[(&str, &str)]) -> RunPodSource {
    vars.retain(|(name, _)| extra.iter().all(|(other, _)| other != name));
    vars.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let config = Config::from_vars(vars).unwrap();
    runpod::start(&config.runpod, &config.worker, http_client::client().unwrap()).unwrap()
}

/// One take of `want` jobs.
pub async fn take(source: &mut RunPodSource, want: usize) -> Taken {
    source.take(want, false, &CancellationToken::new()).await
}

/// The jobs of a take that must bring some.
pub async fn jobs(source: &mut RunPodSource, want: usize) -> Vec<Envelope> {
    match take(source, want).await {
        Taken::Jobs(jobs) => jobs,
        Taken::Nothing => panic!("no jobs"),
        Taken::Failed(error) => panic!("{error}"),
        Taken::RateLimited(_) | Taken::Exhausted => panic!("not asked for"),
    }
}

/// The only job of a take.
pub async fn job(source: &mut RunPodSource) -> Envelope {
    jobs(source, 1).await.into_iter().next().unwrap()
}

/// A completed outcome with this JSON text.
pub fn completed(text: &str) -> Outcome {
    Outcome::Completed(RawValue::from_string(text.to_owned()).unwrap())
}

fn report() -> ProgressReport {
    ProgressReport {
        percent: 12.5,
        current_step: "step1_background",
        sub_step: "flux_background (7/25)".to_owned(),
        message: "배경".to_owned(),
        eta_seconds: None,
        step_eta_seconds: None,
        system_metrics: Value::Null,
    }
}

/// The request as text, with what differs from machine to machine made equal.
fn shown(request: &Recorded) -> String {
    let mut lines = vec![format!("{} {}", request.method, request.target)];
    for (name, value) in &request.headers {
        let value = match name.as_str() {
            "host" => "[host]".to_owned(),
            "user-agent" => {
                let (start, rest) = value.split_once(" (Linux ").unwrap();
                let (_, end) = rest.split_once(')').unwrap();
                assert_eq!(start, format!("Marquee/{}", env!("CARGO_PKG_VERSION")));
                format!("[name]{end}")
            }
            _ => value.clone(),
        };
        lines.push(format!("{name}: {value}"));
    }
    lines.push(String::new());
    lines.push(request.text());
    lines.join("\n")
}

#[tokio::test]
async fn single_take_asks_as_the_sdk_does() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "a", "input": {} }));
    job(&mut source(endpoint.vars(), &[])).await;
    insta::assert_snapshot!(shown(&endpoint.wait_for(Route::Take, 1).await[0]), @r#"
    GET /v2/ep1/job-take/pod123?gpu=TEST&job_in_progress=0
    authorization: secretkey
    user-agent: [name] RunPod-Compatible/1.12.0
    accept: */*
    accept-encoding: identity
    content-type: application/json
    host: [host]
    "#);
}

#[tokio::test]
async fn batch_take_names_its_size_and_whether_jobs_run() {
    let endpoint = Endpoint::start().await;
    for id in ["a", "b", "c"] {
        endpoint.push_job(json!({ "id": id, "input": {} }));
    }
    let mut source = source(endpoint.vars(), &[]);
    let Taken::Jobs(taken) = source.take(3, true, &CancellationToken::new()).await else { panic!() };
    assert_eq!(taken.len(), 3);
    let seen = endpoint.wait_for(Route::TakeBatch, 1).await;
    assert_eq!(seen[0].target, "/v2/ep1/job-take-batch/pod123?gpu=TEST&batch_size=3&job_in_progress=1");
}

#[tokio::test]
async fn stop_channel_appends_nothing() {
    let endpoint = Endpoint::start().await;
    let _source = source(endpoint.vars(), &[]);
    insta::assert_snapshot!(shown(&endpoint.wait_for(Route::Stop, 1).await[0]), @r#"
    GET /v2/ep1/job-stop/pod123?gpu=TEST
    authorization: secretkey
    user-agent: [name] RunPod-Compatible/1.12.0
    accept: */*
    accept-encoding: identity
    content-type: application/json
    host: [host]
    "#);
}

#[tokio::test]
async fn result_is_json_under_the_form_content_type() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "job-1", "input": {} }));
    let job = job(&mut source(endpoint.vars(), &[])).await;
    job.sink.deliver(&completed(r#"{"image":"ünïcode","x":[1,2.5,null]}"#), false).await.unwrap();
    insta::assert_snapshot!(shown(&endpoint.results()[0]), @r#"
    POST /v2/ep1/job-done/pod123/job-1?gpu=TEST&isStream=false
    authorization: secretkey
    user-agent: [name] RunPod-Compatible/1.12.0
    accept: */*
    accept-encoding: identity
    content-type: application/x-www-form-urlencoded
    charset: utf-8
    x-request-id: job-1
    host: [host]
    content-length: 50

    {"output": {"image":"ünïcode","x":[1,2.5,null]}}
    "#);
}

#[tokio::test]
async fn refresh_adds_stop_pod() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "job-1", "input": {} }));
    let job = job(&mut source(endpoint.vars(), &[])).await;
    job.sink.deliver(&completed("{}"), true).await.unwrap();
    assert_eq!(endpoint.results()[0].text(), r#"{"output": {}, "stopPod": true}"#);
}

#[tokio::test]
async fn failure_is_a_string_of_json_with_the_sdks_keys_first() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "job-1", "input": {} }));
    let job = job(&mut source(endpoint.vars(), &[("RUNPOD_POD_HOSTNAME", "host-7")])).await;
    let failure = Failure {
        kind: FailureKind::InvalidInput,
        message: "two \"errors\"".to_owned(),
        details: json!([{ "path": "input.width" }]),
    };
    job.sink.deliver(&Outcome::Failed(failure), false).await.unwrap();
    let body = endpoint.results()[0].json();
    insta::assert_snapshot!(body["error"].as_str().unwrap(), @r#"{"error_type":"invalid_input","error_message":"two \"errors\"","error_traceback":"","hostname":"host-7","worker_id":"pod123","runpod_version":"1.12.0","kind":"invalid_input","details":[{"path":"input.width"}]}"#);
    assert_eq!(body.as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn stopped_job_posts_nothing() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "job-1", "input": {} }));
    let job = job(&mut source(endpoint.vars(), &[])).await;
    job.sink.deliver(&Outcome::Stopped(StopReason::Requested), false).await.unwrap();
    assert_eq!(endpoint.on(Route::Done).len(), 0);
}

#[tokio::test]
async fn progress_has_a_status_beside_its_output() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "job-1", "input": {} }));
    let job = job(&mut source(endpoint.vars(), &[])).await;
    job.sink.progress(&report()).await.unwrap();
    insta::assert_snapshot!(shown(&endpoint.on(Route::Done)[0]), @r#"
    POST /v2/ep1/job-done/pod123/job-1?gpu=TEST&isStream=false
    authorization: secretkey
    user-agent: [name] RunPod-Compatible/1.12.0
    accept: */*
    accept-encoding: identity
    content-type: application/x-www-form-urlencoded
    charset: utf-8
    x-request-id: job-1
    host: [host]
    content-length: 142

    {"status": "IN_PROGRESS", "output": {"percent":12.5,"current_step":"step1_background","sub_step":"flux_background (7/25)","message":"배경"}}
    "#);
}

#[tokio::test]
async fn heartbeat_is_bare_when_idle() {
    let endpoint = Endpoint::start().await;
    let _source = source(endpoint.vars(), &[]);
    insta::assert_snapshot!(shown(&endpoint.wait_for(Route::Ping, 1).await[0]), @r#"
    GET /v2/ep1/ping/pod123?gpu=TEST&runpod_version=1.12.0
    authorization: secretkey
    user-agent: [name] RunPod-Compatible/1.12.0
    accept: */*
    accept-encoding: identity
    host: [host]
    "#);
}

#[tokio::test]
async fn heartbeat_names_held_jobs_until_their_sinks_are_gone() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "b", "input": {} }));
    endpoint.push_job(json!({ "id": "a", "input": {} }));
    let mut source = source(endpoint.vars(), &[("RUNPOD_PING_INTERVAL", "1000")]);
    let held = jobs(&mut source, 2).await;
    let named = |ping: &Recorded| ping.target.contains("&job_id=a%2Cb&runpod_version=1.12.0");
    endpoint.until(|seen| seen.iter().any(named)).await;
    drop(held);
    assert!(source.in_flight().ids().is_empty());
    let pings = endpoint.on(Route::Ping).len();
    let last = endpoint.wait_for(Route::Ping, pings + 1).await;
    assert_eq!(last.last().unwrap().target, "/v2/ep1/ping/pod123?gpu=TEST&runpod_version=1.12.0");
}

#[tokio::test]
async fn dropped_source_pings_no_more() {
    let endpoint = Endpoint::start().await;
    let source = source(endpoint.vars(), &[("RUNPOD_PING_INTERVAL", "1000")]);
    endpoint.wait_for(Route::Ping, 1).await;
    drop(source);
    let before = endpoint.on(Route::Ping).len();
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(endpoint.on(Route::Ping).len(), before);
}

#[tokio::test]
async fn no_heartbeat_without_a_key() {
    let endpoint = Endpoint::start().await;
    let source = source(endpoint.vars(), &[("RUNPOD_AI_API_KEY", "")]);
    let first = endpoint.wait_for(Route::Stop, 1).await;
    assert_eq!(first[0].header("authorization"), None);
    assert_eq!(endpoint.on(Route::Ping).len(), 0);
    drop(source);
}

#[tokio::test]
async fn unhealthy_report_cuts_its_reason() {
    let endpoint = Endpoint::start().await;
    let config = Config::from_vars(endpoint.vars()).unwrap();
    let failure =
        FitnessFailure { check: "_memory_check", reason: format!("RuntimeError: {}", "é".repeat(300)) };
    runpod::report_unhealthy(&config.runpod, http_client::client().unwrap(), &failure).await.unwrap();
    let target = &endpoint.on(Route::Ping)[0].target;
    let reason = format!("RuntimeError%3A%20{}", "%C3%A9".repeat(256 - 14));
    assert_eq!(
        *target,
        format!(
            "/v2/ep1/ping/pod123?gpu=TEST&status=unhealthy&check=_memory_check&reason={reason}&runpod_version=1.12.0"
        )
    );
}

/// URLs from templates, with worker `pod 1`.
fn urls(get: &str, post: &str, extra: &[(&str, &str)]) -> Urls {
    let vars = [("RUNPOD_WEBHOOK_GET_JOB", get), ("RUNPOD_WEBHOOK_POST_OUTPUT", post)];
    let vars = vars.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Urls::new(&Config::from_vars(vars).unwrap().runpod, "pod 1").unwrap()
}

#[test]
fn placeholders_may_stand_anywhere() {
    let urls = urls(
        "http://h/x?worker=$ID",
        "http://h/job-done/$RUNPOD_POD_ID?job_id=$ID&token=t&gpu=$RUNPOD_GPU_TYPE_ID",
        &[("RUNPOD_GPU_TYPE_ID", "NVIDIA GeForce RTX 4090")],
    );
    assert_eq!(urls.take(1, true), "http://h/x?worker=pod%201&job_in_progress=1");
    assert_eq!(urls.stop(), None);
    assert_eq!(
        urls.done(&JobId::new("j-1").unwrap()),
        "http://h/job-done/pod%201?job_id=j-1&token=t&gpu=NVIDIA%20GeForce%20RTX%204090&isStream=false"
    );
}

#[test]
fn parameters_are_appended_with_an_ampersand_even_without_a_query() {
    let urls = urls("http://h/job-take/$ID", "http://h/job-done/$RUNPOD_POD_ID/$ID", &[]);
    assert_eq!(urls.take(1, false), "http://h/job-take/pod%201&job_in_progress=0");
    assert_eq!(urls.take(4, false), "http://h/job-take-batch/pod%201&batch_size=4&job_in_progress=0");
    assert_eq!(urls.stop().unwrap(), "http://h/job-stop/pod%201");
    assert_eq!(urls.done(&JobId::new("j1").unwrap()), "http://h/job-done/pod%201/j1&isStream=false");
}

#[test]
fn job_ids_are_quoted_as_yarl_quotes_them() {
    let urls = urls("http://h/job-take/$ID", "http://h/done/$ID", &[]);
    for (id, quoted) in [
        ("a b", "a%20b"),
        ("é", "%C3%A9"),
        ("a/b", "a/b"),
        ("a%2Fb", "a%2Fb"),
        ("100%", "100%25"),
        ("50%!", "50%25!"),
        ("q?x#y", "q%3Fx%23y"),
        ("5e0ae067-u1", "5e0ae067-u1"),
    ] {
        assert_eq!(urls.done(&JobId::new(id).unwrap()), format!("http://h/done/{quoted}&isStream=false"));
    }
}

#[test]
fn unusable_template_is_named() {
    let vars = [("RUNPOD_WEBHOOK_GET_JOB", "job-take/$ID"), ("RUNPOD_WEBHOOK_POST_OUTPUT", "http://h/")];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = Urls::new(&Config::from_vars(vars).unwrap().runpod, "w").unwrap_err();
    assert_eq!(
        error.to_string(),
        "RUNPOD_WEBHOOK_GET_JOB=job-take/w: expected an absolute http(s) URL: relative URL without a base"
    );
}

#[tokio::test]
async fn envelope_carries_delivery_and_time_limit() {
    let endpoint = Endpoint::start().await;
    endpoint.push_job(json!({ "id": "sync-1", "input": {}, "policy": { "executionTimeout": 5000 } }));
    endpoint.push_job(json!({ "id": "plain", "input": { "a": 1 }, "policy": "odd", "webhook": "x" }));
    let jobs = jobs(&mut source(endpoint.vars(), &[]), 2).await;
    assert_eq!((jobs[0].delivery, jobs[0].time_limit), (Delivery::Waiting, Some(Duration::from_secs(5))));
    assert_eq!((jobs[1].delivery, jobs[1].time_limit), (Delivery::Queued, None));
    assert_eq!(jobs[1].input, json!({ "a": 1 }));
}

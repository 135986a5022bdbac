//! Every route over a real socket.

use std::time::Duration;

use marquee::job::{Delivery, FailureKind, StopReason};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Server, answer, completed, failed, input, report};

#[tokio::test]
async fn run_then_status_by_get_and_post_bare_and_prefixed() {
    let mut server = Server::start(&[]).await;
    let id = server.run(&input(1)).await;
    assert!(id.ends_with("-u1") && id.len() == 39, "{id}");
    assert_eq!(server.state(&id).await, "IN_QUEUE");

    let job = server.take().await;
    assert_eq!((job.id.as_str(), &job.input), (id.as_str(), &json!({ "number": 1 })));
    assert_eq!((job.delivery, job.time_limit), (Delivery::Local, None));
    job.sink.progress(&report(37.5)).await.unwrap();
    for prefix in ["", "/v2/any"] {
        for method in [Method::GET, Method::POST] {
            let (code, status) = answer(server.request(method, &format!("{prefix}/status/{id}"))).await;
            assert_eq!((code, &status["status"]), (StatusCode::OK, &json!("IN_PROGRESS")));
            assert_eq!(status["output"]["percent"], 37.5);
        }
    }
    job.sink.deliver(&completed(r#"{"images":{"final_result":"AA=="},"z":1.50}"#), false).await.unwrap();
    let text =
        server.request(Method::GET, &format!("/status/{id}")).send().await.unwrap().text().await.unwrap();
    assert!(
        text.contains(r#""output":{"images":{"final_result":"AA=="},"z":1.50}"#),
        "embedded as it was: {text}"
    );
    assert!(text.contains(r#""status":"COMPLETED""#) && text.contains(r#""executionTime":"#));
}

#[tokio::test]
async fn runsync_answers_with_the_outcome() {
    let mut server = Server::start(&[]).await;
    let request = server.request(Method::POST, "/v2/ep/runsync").body(input(1).to_string());
    let call = tokio::spawn(answer(request));
    let job = server.take().await;
    assert!(job.id.as_str().starts_with("sync-") && job.id.as_str().ends_with("-u1"), "{}", job.id);
    job.sink.deliver(&completed("[1,2]"), false).await.unwrap();
    let (code, reply) = call.await.unwrap();
    assert_eq!(code, StatusCode::OK);
    assert_eq!((&reply["status"], &reply["output"]), (&json!("COMPLETED"), &json!([1, 2])));
    assert_eq!(reply["id"], job.id.as_str());

    let request = server.request(Method::POST, "/runsync").body(input(2).to_string());
    let call = tokio::spawn(answer(request));
    let job = server.take().await;
    job.sink.deliver(&failed(FailureKind::Deadline), false).await.unwrap();
    let (code, reply) = call.await.unwrap();
    assert_eq!((code, &reply["status"]), (StatusCode::OK, &json!("TIMED_OUT")));
    assert_eq!(reply["error"], "the engine gave up");
}

#[tokio::test(start_paused = true)]
async fn runsync_returns_the_state_once_the_wait_is_over_and_the_job_goes_on() {
    let mut server = Server::start(&[]).await;
    let started = tokio::time::Instant::now();
    let (code, reply) = server.post("/runsync?wait=1000", &input(1)).await;
    assert_eq!((code, &reply["status"]), (StatusCode::OK, &json!("IN_QUEUE")));
    assert!(started.elapsed() >= Duration::from_secs(1));
    let id = reply["id"].as_str().unwrap().to_owned();
    let job = server.take().await;
    assert_eq!(job.stop.reason(), None, "a caller whose time is up did not hang up");
    job.sink.deliver(&completed("1"), false).await.unwrap();
    assert_eq!(server.state(&id).await, "COMPLETED");

    let started = tokio::time::Instant::now();
    server.post("/runsync", &input(1)).await;
    assert!(started.elapsed() >= Duration::from_secs(90), "the default");
}

#[tokio::test]
async fn wait_has_bounds() {
    let server = Server::start(&[]).await;
    for wait in ["999", "300001", "-1", "soon", ""] {
        let (code, reply) = server.post(&format!("/runsync?wait={wait}"), &input(1)).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{wait}");
        assert_eq!(reply["detail"][0]["loc"], json!(["query", "wait"]));
    }
    assert_eq!(server.get("/health").await.1["jobs"]["inQueue"], 0, "a refused request queues nothing");
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong_where() {
    let server = Server::start(&[]).await;
    for (body, kind, loc) in [
        ("", "missing", json!(["body"])),
        ("{\"input\":", "json_invalid", json!(["body"])),
        ("[]", "dict_type", json!(["body"])),
        ("{}", "missing", json!(["body", "input"])),
        (r#"{"input":null}"#, "dict_type", json!(["body", "input"])),
        (r#"{"input":"x"}"#, "dict_type", json!(["body", "input"])),
        (r#"{"input":[1]}"#, "dict_type", json!(["body", "input"])),
        (r#"{"input":{},"policy":3}"#, "dict_type", json!(["body", "policy"])),
        (r#"{"input":{},"policy":{"ttl":9999}}"#, "range", json!(["body", "policy", "ttl"])),
        (
            r#"{"input":{},"policy":{"executionTimeout":604800001}}"#,
            "range",
            json!(["body", "policy", "executionTimeout"]),
        ),
        (r#"{"input":{},"webhook":"file:///etc/passwd"}"#, "url", json!(["body", "webhook"])),
        (r#"{"input":{},"webhook":"nowhere"}"#, "url", json!(["body", "webhook"])),
        (r#"{"input":{},"webhook":5}"#, "string_type", json!(["body", "webhook"])),
    ] {
        for path in ["/run", "/runsync", "/ep1/realtime"] {
            let request = server.request(Method::POST, path).body(body);
            let (code, reply) = answer(request).await;
            assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
            assert_eq!(reply["detail"][0]["type"], kind, "{body}");
            assert_eq!(reply["detail"][0]["loc"], loc, "{body}");
            assert!(reply["error"].as_str().is_some_and(|message| !message.is_empty()));
        }
    }
    let (_, reply) = server.post("/run", &json!({ "policy": 1, "webhook": 2 })).await;
    assert_eq!(reply["detail"].as_array().unwrap().len(), 3, "all problems at once: {reply}");
    assert_eq!(server.get("/health").await.1["jobs"]["inQueue"], 0);
}

#[tokio::test]
async fn the_platforms_other_members_are_accepted() {
    let mut server = Server::start(&[]).await;
    let body = json!({
        "input": { "a": 1 },
        "policy": { "executionTimeout": 5000, "ttl": 60_000, "lowPriority": true },
        "s3Config": { "accessId": "x" },
        "webhook": null,
        "something": "else",
    });
    server.run(&body).await;
    let job = server.take().await;
    assert_eq!(job.input, json!({ "a": 1 }));
    assert_eq!(job.time_limit, Some(Duration::from_secs(5)));
}

#[tokio::test]
async fn unknown_jobs_routes_and_methods_are_json_errors() {
    let server = Server::start(&[]).await;
    for (method, path, expected) in [
        (Method::GET, "/status/none", StatusCode::NOT_FOUND),
        (Method::GET, "/stream/none", StatusCode::NOT_FOUND),
        (Method::POST, "/cancel/none", StatusCode::NOT_FOUND),
        (Method::POST, "/retry/none", StatusCode::NOT_FOUND),
        (Method::GET, "/status/%00", StatusCode::NOT_FOUND),
        (Method::GET, "/nothing", StatusCode::NOT_FOUND),
        (Method::POST, "/ep2/realtime", StatusCode::NOT_FOUND),
        (Method::GET, "/v2/ep/run", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/run", StatusCode::METHOD_NOT_ALLOWED),
        (Method::OPTIONS, "/run", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (code, reply) = answer(server.request(method.clone(), path)).await;
        assert_eq!(code, expected, "{method} {path}");
        assert!(reply["error"].is_string(), "{method} {path}: {reply}");
    }
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let server = Server::start(&[("MARQUEE_API_QUEUE", "1")]).await;
    server.run(&input(1)).await;
    let reply = server.request(Method::POST, "/run").body(input(2).to_string()).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.headers()["retry-after"], "2");
    assert!(reply.text().await.unwrap().contains("queue is full"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let server = Server::start(&[("MARQUEE_API_BODY_BYTES", "2000")]).await;
    let body = |bytes: usize| {
        let empty = json!({ "input": { "a": "" } }).to_string().len();
        json!({ "input": { "a": "x".repeat(bytes - empty) } })
    };
    assert_eq!(server.post("/run", &body(2_000)).await.0, StatusCode::OK);
    let (code, reply) = server.post("/run", &body(2_001)).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(reply["error"].as_str().unwrap().contains("MARQUEE_API_BODY_BYTES"));
}

#[tokio::test]
async fn cancel_retry_purge_and_health() {
    let mut server = Server::start(&[]).await;
    let queued = server.run(&input(1)).await;
    assert_eq!(
        server.post(&format!("/v2/ep/cancel/{queued}"), &json!(null)).await,
        (StatusCode::OK, json!({ "id": queued, "status": "CANCELLED" }))
    );

    let running = server.run(&input(2)).await;
    let job = server.take().await;
    assert_eq!(server.get("/health").await.1["workers"], json!({ "idle": 0, "running": 1 }));
    server.post(&format!("/cancel/{running}"), &json!(null)).await;
    assert_eq!(job.stop.stopped().await, StopReason::Requested);
    assert_eq!(server.state(&running).await, "CANCELLED");
    drop(job);

    let failing = server.run(&input(3)).await;
    server.take().await.sink.deliver(&failed(FailureKind::Engine), false).await.unwrap();
    let (_, status) = server.get(&format!("/status/{failing}")).await;
    assert_eq!((&status["status"], &status["error"]), (&json!("FAILED"), &json!("the engine gave up")));
    assert_eq!(status["errorDetails"]["details"]["step"], 2);
    let (code, reply) = server.post(&format!("/retry/{failing}"), &json!(null)).await;
    assert_eq!((code, reply), (StatusCode::OK, json!({ "id": failing, "status": "IN_QUEUE" })));
    let (code, _) = server.post(&format!("/retry/{failing}"), &json!(null)).await;
    assert_eq!(code, StatusCode::CONFLICT, "it waits already");

    server.run(&input(4)).await;
    let (_, reply) = server.post("/v2/ep/purge-queue", &json!(null)).await;
    assert_eq!(reply, json!({ "removed": 2, "status": "completed" }));
    assert_eq!(
        server.get("/v2/ep/health").await.1,
        json!({
            "jobs": { "completed": 0, "failed": 1, "inProgress": 0, "inQueue": 0, "retried": 1 },
            "workers": { "idle": 1, "running": 0 },
        })
    );
}

#[tokio::test]
async fn a_stream_can_be_read_to_its_end() {
    let mut server = Server::start(&[]).await;
    let id = server.run(&input(1)).await;
    let job = server.take().await;
    job.sink.progress(&report(10.0)).await.unwrap();
    let (_, first) = server.get(&format!("/v2/ep/stream/{id}")).await;
    assert_eq!(
        (&first["status"], &first["stream"][0]["output"]["percent"]),
        (&json!("IN_PROGRESS"), &json!(10.0))
    );
    job.sink.deliver(&completed("\"end\""), false).await.unwrap();
    let (_, second) = server.get(&format!("/stream/{id}")).await;
    assert_eq!((&second["status"], &second["stream"]), (&json!("COMPLETED"), &json!([{ "output": "end" }])));
    let (_, third) = answer(server.request(Method::POST, &format!("/stream/{id}"))).await;
    assert_eq!((&third["status"], &third["stream"]), (&json!("COMPLETED"), &json!([])));
}

#[tokio::test]
async fn realtime_answers_bare() {
    let mut server = Server::start(&[]).await;
    for (outcome, expected) in [
        (completed("{\"a\":1}"), json!({ "output": { "a": 1 } })),
        (failed(FailureKind::Engine), json!({ "error": "the engine gave up" })),
    ] {
        let body = json!({ "id": "mine", "input": {} }).to_string();
        let call = tokio::spawn(answer(server.request(Method::POST, "/ep1/realtime").body(body)));
        server.take().await.sink.deliver(&outcome, false).await.unwrap();
        assert_eq!(call.await.unwrap(), (StatusCode::OK, expected));
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::start(&[]).await;
    let page = |server: &Server| server.request(Method::GET, "/").send();
    let reply = page(&server).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let policy = reply.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"));
    assert!(!policy.contains("unsafe"));
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let html = reply.text().await.unwrap();
    assert!(html.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(html.contains(&format!("<style nonce=\"{nonce}\">")));
    for outside in ["src=\"", "http://", "https://", " style=", "onclick=", "%NONCE%"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let again = page(&server).await.unwrap();
    assert!(!again.headers()["content-security-policy"].to_str().unwrap().contains(&nonce));
}

#[tokio::test]
async fn the_description_names_every_route_and_carries_the_schema() {
    let server = Server::start(&[]).await;
    let (code, document) = server.get("/openapi.json").await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(document["components"]["schemas"]["Input"]["title"], "AdInput");
    for prefix in ["", "/v2/{endpoint}"] {
        for path in [
            "/run",
            "/runsync",
            "/status/{id}",
            "/stream/{id}",
            "/cancel/{id}",
            "/retry/{id}",
            "/health",
            "/purge-queue",
        ] {
            let operations = document["paths"][format!("{prefix}{path}")].as_object().expect(path);
            let concrete = format!("{prefix}{path}").replace("{id}", "none").replace("{endpoint}", "ep");
            for method in operations.keys().filter(|key| *key != "parameters") {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let (code, _) = answer(server.request(method.clone(), &concrete)).await;
                assert_ne!(
                    code,
                    StatusCode::METHOD_NOT_ALLOWED,
                    "{method} {concrete} is described but not served"
                );
            }
        }
    }
    assert_eq!(server.request(Method::GET, "/ping").send().await.unwrap().status(), StatusCode::OK);
}

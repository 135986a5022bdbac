//! Webhooks: what is sent, when, and how often.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use marquee::job::FailureKind;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Server, Shared, completed, failed, report, soon};

/// A receiver that answers with the scripted codes (then 200) and passes on what it got.
async fn receiver(codes: &[u16]) -> (String, mpsc::UnboundedReceiver<(Instant, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=1", listener.local_addr().unwrap());
    let (send, got) = mpsc::unbounded_channel();
    let codes: Shared<u16> = Arc::new(Mutex::new(codes.iter().rev().copied().collect()));
    let answer = move |body: String| {
        let code = codes.lock().unwrap().pop().unwrap_or(200);
        send.send((Instant::now(), serde_json::from_str(&body).unwrap())).unwrap();
        async move { StatusCode::from_u16(code).unwrap() }
    };
    let router = axum::Router::new().route("/hook", axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

#[tokio::test]
async fn the_status_object_is_sent_once_the_job_has_ended() {
    let (url, mut got) = receiver(&[]).await;
    let mut server = Server::start(&[]).await;
    let id = server.run(&json!({ "input": {}, "webhook": url })).await;
    let job = server.take().await;
    job.sink.progress(&report(50.0)).await.unwrap();
    assert!(got.try_recv().is_err(), "progress is not announced");
    job.sink.deliver(&completed("{\"images\":{}}"), false).await.unwrap();
    let (_, body) = soon(got.recv()).await.unwrap();
    assert_eq!(
        (&body["id"], &body["status"], &body["output"]),
        (&json!(id), &json!("COMPLETED"), &json!({ "images": {} }))
    );
    assert!(body["delayTime"].is_u64() && body["executionTime"].is_u64());
}

#[tokio::test]
async fn failures_and_timeouts_are_announced_too() {
    let (url, mut got) = receiver(&[]).await;
    let mut server = Server::start(&[]).await;
    for (kind, state) in [(FailureKind::Engine, "FAILED"), (FailureKind::Deadline, "TIMED_OUT")] {
        server.run(&json!({ "input": {}, "webhook": url })).await;
        server.take().await.sink.deliver(&failed(kind), false).await.unwrap();
        let (_, body) = soon(got.recv()).await.unwrap();
        assert_eq!((&body["status"], &body["error"]), (&json!(state), &json!("the engine gave up")));
    }
}

#[tokio::test(start_paused = true)]
async fn anything_but_200_is_tried_again_twice_ten_seconds_apart() {
    let (url, mut got) = receiver(&[500, 202, 404, 200]).await;
    let mut server = Server::start(&[]).await;
    server.run(&json!({ "input": {}, "webhook": url })).await;
    server.take().await.sink.deliver(&completed("1"), false).await.unwrap();
    let mut attempts = Vec::new();
    for _ in 0..3 {
        attempts.push(soon(got.recv()).await.unwrap());
    }
    assert_eq!(attempts[0].1, attempts[2].1, "the same body each time");
    for pair in attempts.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert!(pause >= Duration::from_secs(10) && pause < Duration::from_secs(12), "{pause:?}");
    }
    assert!(
        tokio::time::timeout(Duration::from_secs(60), got.recv()).await.is_err(),
        "three attempts in all"
    );
}

#[tokio::test]
async fn shutdown_waits_for_a_webhook() {
    let (url, mut got) = receiver(&[]).await;
    let mut server = Server::start(&[]).await;
    server.run(&json!({ "input": {}, "webhook": url })).await;
    let job = server.take().await;
    server.shutdown.cancel();
    job.sink.deliver(&completed("1"), false).await.unwrap();
    server.handle.finish(Duration::from_secs(10)).await;
    assert!(got.try_recv().is_ok(), "delivered before finish returned");
}

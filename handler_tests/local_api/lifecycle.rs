//! Callers that hang up, and shutdown with work in flight.

use std::time::Duration;

use futures_util::FutureExt;
use marquee::job::StopReason;
use marquee::source::{JobSource, Taken};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Server, answer, completed, input, soon};

async fn raw_runsync(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.handle.address()).await.unwrap();
    let body = input(1).to_string();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_caller_who_hangs_up_stops_the_running_job() {
    let mut server = Server::start(&[]).await;
    for path in ["/runsync", "/v2/ep/runsync", "/ep1/realtime"] {
        let stream = raw_runsync(&server, path).await;
        let job = soon(server.take()).await;
        assert_eq!(job.stop.reason(), None);
        drop(stream);
        assert_eq!(soon(job.stop.stopped()).await, StopReason::ClientGone, "{path}");
        assert_eq!(server.state(job.id.as_str()).await, "CANCELLED");
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_takes_its_waiting_job_along() {
    let server = Server::start(&[]).await;
    let stream = raw_runsync(&server, "/runsync").await;
    let waiting = async || server.get("/health").await.1["jobs"]["inQueue"].as_u64().unwrap();
    soon(async { while waiting().await != 1 {} }).await;
    drop(stream);
    soon(async { while waiting().await != 0 {} }).await;
}

#[tokio::test]
async fn an_answered_caller_may_hang_up() {
    let mut server = Server::start(&[]).await;
    let call = tokio::spawn(answer(server.request(Method::POST, "/runsync").body(input(1).to_string())));
    let job = server.take().await;
    job.sink.deliver(&completed("1"), false).await.unwrap();
    call.await.unwrap();
    assert_eq!(job.stop.reason(), None);
    assert_eq!(server.state(job.id.as_str()).await, "COMPLETED");
}

#[tokio::test]
async fn the_source_waits_for_a_job_and_ends_with_the_server() {
    let server = Server::start(&[]).await;
    let (client, base, mut source) = (server.client, server.base, server.source);
    let shutdown = server.shutdown.clone();
    let mut taking = tokio::spawn(async move {
        let first = super::take(&mut source, &shutdown).await;
        (first, source.take(1, true, &shutdown).await, source)
    });
    let submit = client.post(format!("{base}/run")).body(input(1).to_string());
    assert_eq!(submit.send().await.unwrap().status(), StatusCode::OK);
    // The job was taken; the second call goes on waiting, however long the test lets it.
    let health = async || answer(client.get(format!("{base}/health"))).await.1["jobs"]["inProgress"].clone();
    soon(async { while health().await != 1 {} }).await;
    assert!((&mut taking).now_or_never().is_none());
    server.shutdown.cancel();
    let (job, last, _source) = soon(taking).await.unwrap();
    assert_eq!(job.input, json!({ "number": 1 }));
    assert!(matches!(last, Taken::Exhausted));
}

#[tokio::test]
async fn at_shutdown_running_jobs_answer_their_callers_and_waiting_jobs_fail() {
    let mut server = Server::start(&[]).await;
    let call = |number| {
        tokio::spawn(answer(server.request(Method::POST, "/runsync").body(input(number).to_string())))
    };
    let running = call(1);
    let job = match server.source.take(1, false, &server.shutdown).await {
        Taken::Jobs(mut jobs) => jobs.remove(0),
        _ => panic!("expected a job"),
    };
    let waiting = tokio::spawn(answer(server.request(Method::POST, "/runsync").body(input(2).to_string())));
    soon(async { while server.get("/health").await.1["jobs"]["inQueue"] != 1 {} }).await;

    server.shutdown.cancel();
    let (code, reply) = soon(waiting).await.unwrap();
    assert_eq!((code, &reply["status"]), (StatusCode::OK, &json!("FAILED")));
    assert_eq!(reply["errorDetails"]["kind"], "shutdown");
    assert!(matches!(server.source.take(1, true, &server.shutdown).await, Taken::Exhausted));
    assert!(!running.is_finished());

    job.sink.deliver(&completed("7"), false).await.unwrap();
    let (code, reply) = soon(running).await.unwrap();
    assert_eq!((code, &reply["output"]), (StatusCode::OK, &json!(7)));

    let address = server.handle.address();
    soon(server.handle.finish(Duration::from_secs(5))).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_does_not_hold_the_shutdown_for_ever() {
    let mut server = Server::start(&[]).await;
    let _stream = raw_runsync(&server, "/runsync").await;
    let _job = server.take().await;
    server.shutdown.cancel();
    let started = tokio::time::Instant::now();
    server.handle.finish(Duration::from_secs(3)).await;
    assert!(started.elapsed() < Duration::from_secs(4));
}

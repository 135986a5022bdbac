//! The local HTTP API: its store alone, then its routes over real sockets with a scripted worker.

mod access;
mod lifecycle;
mod routes;
mod store;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use marquee::config::Config;
use marquee::job::{Envelope, Failure, FailureKind, Outcome};
use marquee::progress::ProgressReport;
use marquee::source::http::{Endpoint, HttpSource, ServerHandle, serve};
use marquee::source::{JobSource, Taken};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A server with a client, and the source that the test plays the worker on.
struct Server {
    base: String,
    client: reqwest::Client,
    source: HttpSource,
    handle: ServerHandle,
    shutdown: CancellationToken,
}

fn client() -> reqwest::Client {
    // The first test to come here installs it for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Server {
    async fn start(vars: &[(&str, &str)]) -> Self {
        let config =
            Config::from_vars(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let endpoint = Endpoint {
            id: Some("ep1".to_owned()),
            input_schema: json!({ "type": "object", "title": "AdInput" }),
            concurrency: 1,
        };
        let (source, handle) = serve(&config.api, &endpoint, listener, client(), shutdown.clone()).unwrap();
        Self { base: format!("http://{}", handle.address()), client: client(), source, handle, shutdown }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).body(body.to_string())).await
    }

    /// Queues a job; its id.
    async fn run(&self, body: &Value) -> String {
        let (status, reply) = self.post("/run", body).await;
        assert_eq!(status, StatusCode::OK, "{reply}");
        assert_eq!(reply["status"], "IN_QUEUE");
        reply["id"].as_str().unwrap().to_owned()
    }

    /// The worker takes one job.
    async fn take(&mut self) -> Envelope {
        take(&mut self.source, &self.shutdown).await
    }

    async fn state(&self, id: &str) -> String {
        self.get(&format!("/status/{id}")).await.1["status"].as_str().unwrap_or("none").to_owned()
    }
}

async fn take(source: &mut HttpSource, shutdown: &CancellationToken) -> Envelope {
    match source.take(1, false, shutdown).await {
        Taken::Jobs(mut jobs) if jobs.len() == 1 => jobs.remove(0),
        Taken::Jobs(jobs) => panic!("asked for one job, got {}", jobs.len()),
        _ => panic!("expected a job"),
    }
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let reply = request.send().await.unwrap();
    let status = reply.status();
    let text = reply.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn input(number: u64) -> Value {
    json!({ "input": { "number": number } })
}

fn completed(text: &str) -> Outcome {
    Outcome::Completed(RawValue::from_string(text.to_owned()).unwrap())
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, message: "the engine gave up".to_owned(), details: json!({ "step": 2 }) })
}

fn report(percent: f64) -> ProgressReport {
    ProgressReport {
        percent,
        current_step: "step2_text",
        sub_step: format!("text_generation ({percent}/100)"),
        message: "painting".to_owned(),
        eta_seconds: None,
        step_eta_seconds: None,
        system_metrics: Value::Null,
    }
}

/// For what must happen although nothing in the test can be awaited for it; real time, so that a bug ends the test.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

type Shared<T> = Arc<std::sync::Mutex<Vec<T>>>;

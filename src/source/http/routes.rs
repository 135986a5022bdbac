//! The platform's routes over the store: HTTP in, HTTP out, no state of its own.
//!
//! Every route exists twice, bare and below `/v2/{endpoint}`, where the official client expects it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER};
use axum::http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::guard::{self, Guard};
use super::record::{JobState, Snapshot};
use super::request::{self, Problem};
use super::store::{RetryError, Store, SubmitError};
use crate::job::{JobId, StopReason};

/// What every handler sees.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) store: Arc<Store>,
    pub(super) guard: Arc<Guard>,
    pub(super) openapi: Arc<Value>,
    pub(super) concurrency: usize,
}

/// `/runsync` waits this long unless `?wait=` says otherwise, in milliseconds (the platform's default and bounds).
const WAIT_DEFAULT: u64 = 90_000;
const WAIT_RANGE: std::ops::RangeInclusive<u64> = 1_000..=300_000;

/// Seconds that a client is asked to wait when the queue is full.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("2");

const PLAYGROUND: &str = include_str!("playground.html");

pub(super) fn router(api: Api, endpoint_id: Option<&str>, body_bytes: usize) -> Router {
    let mut router = Router::new()
        .merge(operations())
        .nest("/v2/{endpoint}", operations())
        .route("/", get(playground))
        .route("/openapi.json", get(openapi))
        .route("/ping", get(ping));
    // Braces, slashes and the like would be read as a pattern; no endpoint is named so.
    let plain = |id: &&str| {
        !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if let Some(id) = endpoint_id.filter(plain) {
        router = router.route(&format!("/{id}/realtime"), post(realtime));
    }
    router
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such route; /openapi.json lists them") })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this route has another method; /openapi.json lists them")
        })
        .layer(middleware::from_fn_with_state(api.clone(), guard::layer))
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(api)
}

fn operations() -> Router<Api> {
    Router::new()
        .route("/run", post(run))
        .route("/runsync", post(runsync))
        .route("/status/{id}", get(status).post(status))
        .route("/stream/{id}", get(stream).post(stream))
        .route("/cancel/{id}", post(cancel))
        .route("/retry/{id}", post(retry))
        .route("/health", get(health))
        .route("/purge-queue", post(purge))
}

/// An error reply: always an object with `error`.
pub(super) fn refuse(status: StatusCode, message: impl Into<String>) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error": message.into() })))
}

type Body = Result<Bytes, BytesRejection>;

/// The `{id}` of a path; below `/v2` there is an `{endpoint}` too, which names nothing here.
#[derive(Deserialize)]
struct JobPath {
    id: String,
}

async fn run(State(api): State<Api>, body: Body) -> Response {
    match submit(&api, body, false) {
        Ok(id) => state(&id, JobState::InQueue),
        Err(refusal) => refusal.into_response(),
    }
}

#[derive(Deserialize)]
struct Wait {
    wait: Option<String>,
}

async fn runsync(State(api): State<Api>, Query(query): Query<Wait>, body: Body) -> Response {
    let wait = match query.wait.as_deref().map(str::parse::<u64>) {
        None => WAIT_DEFAULT,
        Some(Ok(wait)) if WAIT_RANGE.contains(&wait) => wait,
        Some(_) => {
            let message = "?wait= must be whole milliseconds from 1000 to 300000";
            let detail = json!([{ "type": "range", "loc": ["query", "wait"], "msg": message }]);
            let body = json!({ "error": message, "detail": detail });
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
        }
    };
    let id = match submit(&api, body, true) {
        Ok(id) => id,
        Err(refusal) => return refusal.into_response(),
    };
    match outcome(&api.store, &id, Some(Duration::from_millis(wait))).await {
        Some(snapshot) => Json(&*snapshot).into_response(),
        // Still going: the caller polls /status from here on.
        None => found(api.store.status(id.as_str())),
    }
}

/// The SDK's realtime route: the bare output, or the bare error. The caller's own `id` is not used.
async fn realtime(State(api): State<Api>, body: Body) -> Response {
    let id = match submit(&api, body, true) {
        Ok(id) => id,
        Err(refusal) => return refusal.into_response(),
    };
    match outcome(&api.store, &id, None).await {
        Some(snapshot) if snapshot.status == JobState::Completed => {
            Json(json_output(&snapshot)).into_response()
        }
        Some(snapshot) => Json(json!({ "error": snapshot.error })).into_response(),
        None => unknown(),
    }
}

#[derive(serde::Serialize)]
struct Output<'a> {
    output: Option<&'a serde_json::value::RawValue>,
}

fn json_output(snapshot: &Snapshot) -> Output<'_> {
    Output { output: snapshot.output.as_deref() }
}

/// Waits until the job has ended. A caller who hangs up meanwhile drops this future, and the job is stopped with it.
async fn outcome(store: &Arc<Store>, id: &JobId, limit: Option<Duration>) -> Option<Arc<Snapshot>> {
    let mut ended = store.watch(id.as_str())?;
    let guard = HangUp { store, id, armed: true };
    let wait = ended.wait_for(Option::is_some);
    // A caller whose time is up is still there: the job goes on.
    let ended = match limit {
        Some(limit) => tokio::time::timeout(limit, wait).await.ok(),
        None => Some(wait.await),
    };
    guard.disarm();
    ended?.ok()?.clone()
}

/// Stops the job when dropped while armed.
struct HangUp<'a> {
    store: &'a Arc<Store>,
    id: &'a JobId,
    armed: bool,
}

impl HangUp<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.store.cancel(self.id.as_str(), StopReason::ClientGone);
        }
    }
}

async fn status(State(api): State<Api>, Path(path): Path<JobPath>) -> Response {
    found(api.store.status(&path.id))
}

async fn stream(State(api): State<Api>, Path(path): Path<JobPath>) -> Response {
    api.store.stream(&path.id).map_or_else(unknown, |reply| Json(reply).into_response())
}

async fn cancel(State(api): State<Api>, Path(path): Path<JobPath>) -> Response {
    match api.store.cancel(&path.id, StopReason::Requested) {
        Some(snapshot) => state(&snapshot.id, snapshot.status),
        None => unknown(),
    }
}

async fn retry(State(api): State<Api>, Path(path): Path<JobPath>) -> Response {
    match api.store.retry(&path.id) {
        Ok(id) => state(&id, JobState::InQueue),
        Err(RetryError::Unknown) => unknown(),
        Err(error @ RetryError::State(_)) => refuse(StatusCode::CONFLICT, error.to_string()).into_response(),
        Err(RetryError::Submit(error)) => Refusal::Busy(error).into_response(),
    }
}

async fn purge(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "removed": api.store.purge(), "status": "completed" }))
}

async fn health(State(api): State<Api>) -> Json<Value> {
    let counts = api.store.counts();
    Json(json!({
        "jobs": {
            "completed": counts.completed,
            "failed": counts.failed,
            "inProgress": counts.in_progress,
            "inQueue": counts.in_queue,
            "retried": counts.retried,
        },
        "workers": {
            "idle": api.concurrency.saturating_sub(counts.held),
            "running": counts.held,
        },
    }))
}

/// Health probe of load balancers: 200 while jobs are taken.
async fn ping(State(api): State<Api>) -> StatusCode {
    if api.store.is_closed() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

async fn openapi(State(api): State<Api>) -> Json<Value> {
    Json(Value::clone(&api.openapi))
}

/// One page, nothing from elsewhere: the policy allows its own script and style by nonce, images that it was sent, and
/// calls to this server.
async fn playground() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Html(PLAYGROUND.replace("%NONCE%", &nonce)).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn submit(api: &Api, body: Body, waiting: bool) -> Result<JobId, Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::Body(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request's body is larger than MARQUEE_API_BODY_BYTES allows".to_owned(),
        ),
        status => Refusal::Body(status, rejection.body_text()),
    })?;
    let submission = request::read(&body, waiting).map_err(Refusal::Invalid)?;
    api.store.submit(submission).map_err(Refusal::Busy)
}

/// Why a request did not become a job.
enum Refusal {
    /// The body could not be read.
    Body(StatusCode, String),
    /// The request is wrong.
    Invalid(Vec<Problem>),
    /// The queue takes nothing now.
    Busy(SubmitError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Body(status, message) => refuse(status, message).into_response(),
            Self::Invalid(problems) => {
                let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
                let detail: Vec<_> = problems.iter().map(Problem::to_json).collect();
                let body = json!({ "error": messages.join("; "), "detail": detail });
                (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
            }
            Self::Busy(error) => {
                let status = match error {
                    SubmitError::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
                    SubmitError::Closed => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, [(RETRY_AFTER, RETRY_AFTER_S)], Json(json!({ "error": error.to_string() })))
                    .into_response()
            }
        }
    }
}

fn found(snapshot: Option<Snapshot>) -> Response {
    snapshot.map_or_else(unknown, |snapshot| Json(snapshot).into_response())
}

fn unknown() -> Response {
    refuse(StatusCode::NOT_FOUND, RetryError::Unknown.to_string()).into_response()
}

fn state(id: &JobId, status: JobState) -> Response {
    Json(json!({ "id": id, "status": status })).into_response()
}

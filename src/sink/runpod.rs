//! Posts to the RunPod endpoint: results with a retry budget, progress without.
//!
//! A result is the product of minutes on a GPU: it is resent, byte-identical, after everything that a second attempt
//! can mend. The order of calls is the worker's duty ([`super::JobSink`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{DeliveryError, JobSink};
use crate::job::{Failure, FailureKind, JobId, Outcome};
use crate::progress::ProgressReport;
use crate::source::runpod::{
    Endpoint, Held, PROTOCOL_VERSION, describe, excerpt, retry_after, without_query,
};

/// Progress is worth no more: the outcome waits for a report in flight.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest base of the waits between attempts.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MOST: Duration = Duration::from_secs(10);
/// Bounds of one attempt, which is otherwise a third of the budget: 20 MB at 1 MB/s must pass.
const ATTEMPT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The platform answers 400, not 413, to results that are too large. Its limits are 10 and 20 MB; a body below this
/// size was refused for something else.
const SUSPECT_BYTES: usize = 1_000_000;

/// The way back to the platform for one job. Dropping it frees the job's id.
pub struct RunPodSink {
    endpoint: Arc<Endpoint>,
    held: Held,
    url: String,
    budget: Duration,
}

impl RunPodSink {
    /// `budget`: how long delivery of a result is retried.
    pub fn new(endpoint: Arc<Endpoint>, held: Held, budget: Duration) -> Self {
        let url = endpoint.urls().done(held.id());
        Self { endpoint, held, url, budget }
    }

    fn id(&self) -> &JobId {
        self.held.id()
    }

    fn to(&self) -> String {
        without_query(&self.url).to_owned()
    }

    /// Posts `body` until it is accepted, refused for good, or the budget is spent.
    async fn post(&self, body: &Bytes) -> Result<(), DeliveryError> {
        let began = Instant::now();
        let mut wait = WAIT_FIRST;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let limit = (self.budget / 3).clamp(ATTEMPT.0, ATTEMPT.1);
            let again = match self.attempt(body, limit).await {
                Verdict::Accepted => return Ok(()),
                Verdict::Refused { status, body } => {
                    return Err(DeliveryError::Refused { to: self.to(), what: "result", status, body });
                }
                Verdict::Again(again) => again,
            };
            let spent = began.elapsed();
            if spent >= self.budget {
                return Err(DeliveryError::GaveUp {
                    to: self.to(),
                    what: "result",
                    attempts,
                    seconds: spent.as_secs_f64(),
                    last: again.reason.into(),
                });
            }
            // Jitter over the upper half: workers that lost their server together do not return together. The last
            // attempt falls on the end of the budget, whatever `Retry-After` says: it may still save the result.
            let pause = again.after.unwrap_or_else(|| wait.mul_f64(rand::rng().random_range(0.5..1.0)));
            let pause = pause.min(self.budget.saturating_sub(spent));
            tracing::warn!(job = %self.id(), attempts, reason = %again.reason, ?pause, "the result was not accepted; trying again");
            sleep(pause).await;
            wait = (wait * 2).min(WAIT_MOST);
        }
    }

    async fn attempt(&self, body: &Bytes, limit: Duration) -> Verdict {
        let sent = timeout(limit, self.endpoint.post(&self.url, self.id(), body.clone()).send()).await;
        let response = match sent {
            Err(_) => return Verdict::again(format!("no answer within {:.1} s", limit.as_secs_f64())),
            Ok(Err(error)) => return Verdict::again(describe(&error)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        match status {
            200..=299 => Verdict::Accepted,
            408 | 425 | 429 | 500..=599 => {
                let after = retry_after(response.headers());
                Verdict::Again(Again {
                    reason: format!("status {status}: {}", excerpt(response).await),
                    after,
                })
            }
            // A redirect too: followed, it would turn the POST into a GET.
            _ => Verdict::Refused { status, body: excerpt(response).await },
        }
    }

    /// Says in a small body that the result's own was refused, or the customer sees COMPLETED without output.
    async fn report_refused(&self, bytes: usize, status: u16, refresh: bool) {
        let failure = Failure::new(
            FailureKind::ResultTooLarge,
            format!(
                "the platform refused the result of {bytes} bytes with status {status}; ask for smaller or lossy images, \
                 or configure a bucket (BUCKET_ENDPOINT_URL)"
            ),
        );
        if let Err(error) = self.post(&self.failure_body(&failure, refresh)).await {
            tracing::error!(job = %self.id(), %error, "the platform was not told that the result was refused");
        }
    }

    /// The SDK's six members in its order, then the worker's own; a string of JSON, as the SDK sends it.
    fn failure_body(&self, failure: &Failure, refresh: bool) -> Bytes {
        let mut report = json!({
            "error_type": failure.kind.as_str(),
            "error_message": failure.message,
            // The SDK's key holds a Python traceback; clients expect a string.
            "error_traceback": "",
            "hostname": self.endpoint.hostname(),
            "worker_id": self.endpoint.worker(),
            "runpod_version": PROTOCOL_VERSION,
            "kind": failure.kind.as_str(),
        });
        if let (Value::Object(members), false) = (&mut report, failure.details.is_null()) {
            members.insert("details".to_owned(), failure.details.clone());
        }
        body("error", &Value::String(report.to_string()).to_string(), refresh)
    }
}

/// `{"key": value}` with the SDK's spaces.
fn body(key: &str, value: &str, refresh: bool) -> Bytes {
    let end = if refresh { ", \"stopPod\": true}" } else { "}" };
    let mut text = String::with_capacity(key.len() + value.len() + end.len() + 6);
    for part in ["{\"", key, "\": ", value, end] {
        text.push_str(part);
    }
    text.into()
}

enum Verdict {
    Accepted,
    Refused { status: u16, body: String },
    Again(Again),
}

struct Again {
    reason: String,
    after: Option<Duration>,
}

impl Verdict {
    fn again(reason: String) -> Self {
        Self::Again(Again { reason, after: None })
    }
}

#[async_trait]
impl JobSink for RunPodSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        let gave_up = |reason: String| DeliveryError::GaveUp {
            to: self.to(),
            what: "progress",
            attempts: 1,
            seconds: 0.0,
            last: reason.into(),
        };
        let report = serde_json::to_string(report).map_err(|error| gave_up(error.to_string()))?;
        let body = Bytes::from(format!("{{\"status\": \"IN_PROGRESS\", \"output\": {report}}}"));
        match timeout(PROGRESS_TIMEOUT, self.attempt(&body, PROGRESS_TIMEOUT)).await {
            Ok(Verdict::Accepted) => Ok(()),
            Ok(Verdict::Refused { status, body }) => {
                Err(DeliveryError::Refused { to: self.to(), what: "progress", status, body })
            }
            Ok(Verdict::Again(again)) => Err(gave_up(again.reason)),
            Err(_) => Err(gave_up("no answer in time".to_owned())),
        }
    }

    async fn deliver(&self, outcome: &Outcome, refresh: bool) -> Result<(), DeliveryError> {
        let (body, is_result) = match outcome {
            Outcome::Completed(output) => (body("output", output.get(), refresh), true),
            Outcome::Failed(failure) => (self.failure_body(failure, refresh), false),
            // The platform has closed the job; a result would re-open it.
            Outcome::Stopped(_) => return Ok(()),
        };
        let delivered = self.post(&body).await;
        if let Err(DeliveryError::Refused { status, .. }) = &delivered {
            let too_large = *status == 413 || (*status == 400 && body.len() >= SUSPECT_BYTES);
            if is_result && too_large {
                self.report_refused(body.len(), *status, refresh).await;
            }
        }
        delivered
    }
}

//! The job-take long poll.
//!
//! Owns one request at a time and what its answer means; the pace is the worker's ([`crate::source::backoff`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::endpoint::{Endpoint, describe, excerpt, read_body, retry_after};
use super::in_flight::InFlight;
use super::job::{self, WireJob};
use super::urls::without_query;
use crate::job::{Envelope, Failure, FailureKind, Outcome};
use crate::sink::JobSink;
use crate::sink::runpod::RunPodSink;
use crate::source::{JobSource, TakeError, Taken};

/// The SDK's bound on one long poll.
const HOLD: Duration = Duration::from_secs(90);
/// From the head of an answer to its last byte.
const BODY: Duration = Duration::from_secs(60);
/// The platform sends at most 20 MB a job.
const BODY_CAP: usize = 64 << 20;
/// After shutdown: an answer that is on the wire already has this long to show its head …
const LINGER: Duration = Duration::from_millis(100);
/// … and, once it has, this long to arrive, because its jobs are assigned to this worker.
const LAST_BODY: Duration = Duration::from_secs(3);
/// The SDK's pause after 429; also the least and the most that `Retry-After` can make of it.
const RATE_LIMIT: Duration = Duration::from_secs(5);
const RATE_LIMIT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Takes jobs from an endpoint. Dropping it closes the stop channel and ends the heartbeat.
pub struct RunPodSource {
    endpoint: Arc<Endpoint>,
    in_flight: InFlight,
    result_budget: Duration,
    hold: Duration,
    background: JoinSet<()>,
}

impl RunPodSource {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        in_flight: InFlight,
        result_budget: Duration,
        background: JoinSet<()>,
    ) -> Self {
        Self { endpoint, in_flight, result_budget, hold: HOLD, background }
    }

    /// Replaces the 90 s bound on a poll.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// The jobs that are held now, as the heartbeat names them.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    async fn answer(&mut self, response: Response, url: &str, shutdown: &CancellationToken) -> Taken {
        let to = || without_query(url).to_owned();
        let status = response.status();
        match status.as_u16() {
            // 400: what a worker revived by FlashBoot is told.
            204 | 400 => return Taken::Nothing,
            429 => {
                let (least, most) = RATE_LIMIT_RANGE;
                let wait = retry_after(response.headers()).unwrap_or(RATE_LIMIT);
                return Taken::RateLimited(wait.clamp(least, most));
            }
            _ if !status.is_success() => {
                return Taken::Failed(TakeError::Status {
                    url: to(),
                    status: status.as_u16(),
                    body: excerpt(response).await,
                });
            }
            _ => {}
        }
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let body = tokio::select! {
            read = timeout(BODY, read_body(response, BODY_CAP)) => match read {
                Ok(Ok(body)) => Ok(body),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("the body took longer than {} s", BODY.as_secs())),
            },
            () = async { shutdown.cancelled().await; sleep(LAST_BODY).await } => {
                Err("the body did not arrive in time before shutdown".to_owned())
            },
        };
        let body = match body {
            Ok(body) => body,
            Err(reason) => return Taken::Failed(TakeError::Transport { url: to(), reason }),
        };
        match job::parse(&body) {
            Err(reason) => Taken::Failed(TakeError::Malformed { url: to(), reason }),
            Ok(jobs) if jobs.is_empty() => Taken::Nothing,
            Ok(jobs) => {
                let json =
                    content_type.as_ref().is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
                if !json {
                    // The SDK throws such a body away, and with it the job.
                    tracing::warn!(
                        ?content_type,
                        "jobs arrived under a content type that is not JSON; taking them"
                    );
                }
                self.envelopes(jobs)
            }
        }
    }

    fn envelopes(&mut self, jobs: Vec<WireJob>) -> Taken {
        let mut envelopes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Some(held) = self.in_flight.enter(&job.id) else {
                tracing::warn!(job = %job.id, "the platform sent a job that this worker already holds; dropped the copy");
                continue;
            };
            let stop = held.stop_handle();
            let sink = Arc::new(RunPodSink::new(self.endpoint.clone(), held, self.result_budget));
            match job.input {
                Ok(input) => envelopes.push(Envelope {
                    id: job.id,
                    input,
                    delivery: job.delivery,
                    time_limit: job.time_limit,
                    stop,
                    sink,
                }),
                Err(reason) => self.refuse(sink, reason),
            }
        }
        if envelopes.is_empty() { Taken::Nothing } else { Taken::Jobs(envelopes) }
    }

    /// Answers a job whose input is not even JSON. It never becomes an envelope, so nobody else can.
    fn refuse(&mut self, sink: Arc<RunPodSink>, reason: String) {
        let failure = Failure::new(FailureKind::InvalidInput, reason);
        self.background.spawn(async move {
            if let Err(error) = sink.deliver(&Outcome::Failed(failure), false).await {
                tracing::error!(%error, "a job with unreadable input could not be answered");
            }
        });
    }
}

#[async_trait]
impl JobSource for RunPodSource {
    async fn take(&mut self, want: usize, busy: bool, shutdown: &CancellationToken) -> Taken {
        if shutdown.is_cancelled() {
            return Taken::Nothing;
        }
        // Finished answers to unreadable jobs; the stop channel and the heartbeat never finish.
        while self.background.try_join_next().is_some() {}
        let url = self.endpoint.urls().take(want, busy);
        let request = self.endpoint.poll(&url).send();
        let sent = tokio::select! {
            sent = timeout(self.hold, request) => sent,
            () = async { shutdown.cancelled().await; sleep(LINGER).await } => return Taken::Nothing,
        };
        match sent {
            Ok(Ok(response)) => self.answer(response, &url, shutdown).await,
            Ok(Err(error)) => Taken::Failed(TakeError::Transport {
                url: without_query(&url).to_owned(),
                reason: describe(&error),
            }),
            // The server held the poll longer than it should: as good as 204.
            Err(_) => Taken::Nothing,
        }
    }
}

//! The stop channel: a second long poll that names jobs the customer has cancelled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::endpoint::{Endpoint, describe, excerpt, read_body, retry_after, shorten};
use super::in_flight::InFlight;
use crate::source::backoff::Backoff;

const HOLD: Duration = Duration::from_secs(90);
/// The SDK's least pause after an answer without a job.
const PAUSE: Duration = Duration::from_secs(1);
const RATE_LIMIT: Duration = Duration::from_secs(5);
/// Slower than the take's backoff: a failing server is asked by both, and takes matter more.
const FAILURE_FIRST: Duration = Duration::from_secs(2);
const BODY_CAP: usize = 1 << 20;

/// Runs until its task is dropped.
pub(super) async fn listen(endpoint: Arc<Endpoint>, in_flight: InFlight, url: String) {
    let mut backoff = Backoff::starting_at(FAILURE_FIRST);
    let mut works = true;
    loop {
        let asked = Instant::now();
        match poll(&endpoint, &url).await {
            Ok(Heard::Stop(ids)) => {
                for id in ids {
                    if in_flight.stop(&id) {
                        tracing::info!(job = %id, "cancelled by the platform");
                    } else {
                        tracing::debug!(job = %id, "told to stop a job that is not running here");
                    }
                }
                // A server that repeats itself without holding the poll is slowed down like one without news.
                if asked.elapsed() < PAUSE {
                    sleep(PAUSE).await;
                }
            }
            Ok(Heard::Nothing) => sleep(PAUSE).await,
            Ok(Heard::RateLimited(wait)) => sleep(wait).await,
            Err(reason) => {
                if works {
                    tracing::warn!(%reason, "the stop channel is down; still trying");
                }
                works = false;
                sleep(backoff.after_failure()).await;
                continue;
            }
        }
        if !works {
            tracing::info!("the stop channel is back");
        }
        works = true;
        backoff.reset();
    }
}

enum Heard {
    Stop(Vec<String>),
    Nothing,
    RateLimited(Duration),
}

async fn poll(endpoint: &Endpoint, url: &str) -> Result<Heard, String> {
    let response = match timeout(HOLD, endpoint.poll(url).send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(describe(&error)),
        Err(_) => return Ok(Heard::Nothing),
    };
    match response.status().as_u16() {
        204 => return Ok(Heard::Nothing),
        429 => {
            return Ok(Heard::RateLimited(retry_after(response.headers()).unwrap_or(RATE_LIMIT).max(PAUSE)));
        }
        200..=299 => {}
        status => return Err(format!("status {status}: {}", excerpt(response).await)),
    }
    let body = match timeout(PAUSE * 10, read_body(response, BODY_CAP)).await {
        Ok(read) => read.map_err(|error| error.to_string())?,
        Err(_) => return Err("the body did not arrive".to_owned()),
    };
    if body.trim_ascii().is_empty() {
        return Ok(Heard::Nothing);
    }
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("not JSON ({error}): {}", shorten(&String::from_utf8_lossy(&body))))?;
    let ids: Vec<String> = match value.get("jobsToStop") {
        Some(Value::Array(ids)) => ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect(),
        _ => return Ok(Heard::Nothing),
    };
    Ok(if ids.is_empty() { Heard::Nothing } else { Heard::Stop(ids) })
}

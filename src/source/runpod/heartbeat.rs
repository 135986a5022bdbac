//! The heartbeat: tells the platform which jobs this worker holds, for as long as the process that does the work lives.
//!
//! A task, not a process of its own: a pinger that survives its worker reports dead jobs as running. It cannot be
//! starved here, because engines have their own thread.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::endpoint::{Endpoint, StartError, describe};
use super::fitness::FitnessFailure;
use super::in_flight::InFlight;
use crate::config::RunPodConfig;

/// Twice the interval as in the SDK, but a hung server must not silence the worker for longer than this.
const TIMEOUT_MOST: Duration = Duration::from_secs(30);
const UNHEALTHY_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest reason in an unhealthy report, in characters.
const REASON_CHARS: usize = 256;

/// Pings at once and then every `every`, until its task is dropped. The answer's body means nothing.
pub(super) async fn beat(endpoint: Arc<Endpoint>, in_flight: InFlight, every: Duration) {
    let mut ticks = interval(every);
    // After a slow ping the next is due at once, but missed ones are not caught up on.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut works = true;
    loop {
        ticks.tick().await;
        let Some(url) = endpoint.urls().ping(&in_flight.ids()) else { return };
        let sent = timeout((every * 2).min(TIMEOUT_MOST), endpoint.ping(&url).send()).await;
        let problem = match sent {
            Ok(Ok(response)) if response.status().as_u16() < 400 => None,
            Ok(Ok(response)) => Some(format!("status {}", response.status().as_u16())),
            Ok(Err(error)) => Some(describe(&error)),
            Err(_) => Some("timed out".to_owned()),
        };
        match &problem {
            Some(reason) if works => {
                tracing::warn!(%reason, "heartbeats do not arrive; jobs go on, still trying");
            }
            None if !works => tracing::info!("heartbeats arrive again"),
            Some(_) | None => {}
        }
        works = problem.is_none();
    }
}

/// Tells the platform why this worker will not take jobs. Best effort, at most 2 s; silent without a ping URL or key.
///
/// # Errors
/// [`StartError`] if the configuration names no usable endpoint; a report that does not arrive is only logged.
pub async fn report_unhealthy(
    config: &RunPodConfig,
    client: Client,
    failure: &FitnessFailure,
) -> Result<(), StartError> {
    let endpoint = Endpoint::new(config, client)?;
    let reason: String = failure.reason.chars().take(REASON_CHARS).collect();
    let Some(url) = endpoint.urls().unhealthy(failure.check, &reason).filter(|_| config.api_key.is_some())
    else {
        return Ok(());
    };
    match timeout(UNHEALTHY_TIMEOUT, endpoint.ping(&url).send()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(reason = %describe(&error), "the unhealthy report did not arrive"),
        Err(_) => tracing::warn!("the unhealthy report was not answered in time"),
    }
    Ok(())
}

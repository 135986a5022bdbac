//! The RunPod endpoint as a source: job-take long polls, the stop channel and the heartbeat.
//!
//! [`start`] is called by the program after [`fitness`]; the worker's loop then pulls [`RunPodSource`]. Each envelope's
//! sink is a [`crate::sink::runpod::RunPodSink`] on the same [`Endpoint`].

mod endpoint;
pub mod fitness;
mod heartbeat;
mod in_flight;
mod job;
mod stop;
mod take;
mod urls;

use std::sync::Arc;

use reqwest::Client;
use tokio::task::JoinSet;

pub use endpoint::{Endpoint, StartError, describe, excerpt, retry_after};
pub use heartbeat::report_unhealthy;
pub use in_flight::{Held, InFlight};
pub use take::RunPodSource;
pub use urls::{UrlError, Urls, without_query};

use crate::config::{RunPodConfig, WorkerConfig};

/// The SDK release whose protocol is spoken; the platform reads it as `runpod_version`.
pub const PROTOCOL_VERSION: &str = "1.12.0";

/// Opens the stop channel and the heartbeat (its first ping goes out at once) and returns the source.
///
/// Both run until the source is dropped, so that a draining worker is still seen alive and can still be told to stop
/// its jobs: keep the source until the last job is delivered. Must be called within a tokio runtime.
///
/// # Errors
/// [`StartError`] if the configuration names no usable endpoint.
pub fn start(
    config: &RunPodConfig,
    worker: &WorkerConfig,
    client: Client,
) -> Result<RunPodSource, StartError> {
    let endpoint = Arc::new(Endpoint::new(config, client)?);
    let in_flight = InFlight::default();
    let mut background = JoinSet::new();
    if endpoint.pings() {
        background.spawn(heartbeat::beat(endpoint.clone(), in_flight.clone(), config.ping_interval));
    } else {
        tracing::warn!(
            "no heartbeats: RUNPOD_AI_API_KEY, RUNPOD_POD_ID and RUNPOD_WEBHOOK_PING are not all set"
        );
    }
    if let Some(url) = endpoint.urls().stop() {
        background.spawn(stop::listen(endpoint.clone(), in_flight.clone(), url));
    } else {
        tracing::warn!(
            "no stop channel: RUNPOD_WEBHOOK_GET_JOB has no /job-take/, so cancelled jobs run to their end"
        );
    }
    Ok(RunPodSource::new(endpoint, in_flight, worker.result_budget, background))
}

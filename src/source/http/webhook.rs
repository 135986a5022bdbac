//! Announces the end of jobs to the addresses that their senders gave, as the platform does.
//!
//! One POST of the whole status object, for failures too; anything but 200 is tried again, twice, 10 s apart. The address
//! is whatever the sender wrote (http and https only): this is a local tool, see [`super::request`].

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use url::Url;

use super::record::Snapshot;
use super::store::Announcement;

/// Attempts in all.
const ATTEMPTS: u32 = 3;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(10);
/// For one attempt, body included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends announcements as they come. Once `ending` fires, those that are queued are still sent, then it returns; whoever
/// waits for it bounds the time.
pub(super) async fn run(
    client: reqwest::Client,
    mut announcements: UnboundedReceiver<Announcement>,
    ending: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            // Queued announcements come before the end.
            biased;
            next = announcements.recv() => match next {
                Some((url, snapshot)) => { running.spawn(announce(client.clone(), url, snapshot)); }
                None => break,
            },
            Some(_) = running.join_next(), if !running.is_empty() => {}
            () = ending.cancelled() => break,
        }
    }
    while running.join_next().await.is_some() {}
}

async fn announce(client: reqwest::Client, url: Url, snapshot: Arc<Snapshot>) {
    // Query and credentials stay out of logs.
    let host = url.host_str().unwrap_or_default().to_owned();
    let body = match serde_json::to_vec(&*snapshot) {
        Ok(body) => bytes::Bytes::from(body),
        Err(error) => {
            return warn!(job = %snapshot.id, %error, "the status object is not JSON; webhook not sent");
        }
    };
    for attempt in 1..=ATTEMPTS {
        if attempt > 1 {
            tokio::time::sleep(PAUSE).await;
        }
        let sent = client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .timeout(ATTEMPT_TIMEOUT)
            .body(body.clone())
            .send()
            .await;
        match sent {
            Ok(reply) if reply.status() == StatusCode::OK => {
                return debug!(job = %snapshot.id, host, attempt, "webhook delivered");
            }
            Ok(reply) => {
                warn!(job = %snapshot.id, host, attempt, of = ATTEMPTS, status = %reply.status(), "webhook not accepted; 200 expected");
            }
            Err(error) => {
                warn!(job = %snapshot.id, host, attempt, of = ATTEMPTS, error = %error.without_url(), "webhook not delivered");
            }
        }
    }
}

//! The local HTTP API as a source: the platform's routes over a bounded in-memory queue.
//!
//! [`routes`] speak HTTP, [`store`] holds queue and results, [`HttpSource`] hands jobs to the worker and [`StoreSink`]
//! takes back what became of them; [`webhook`] announces ends. Started by the command line; the worker sees a
//! [`JobSource`] and nothing of HTTP.

mod guard;
mod openapi;
mod record;
mod request;
mod routes;
mod sink;
mod store;
mod webhook;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::serve::ListenerExt as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use guard::exposure_warning;
pub use openapi::document as openapi_document;
pub use record::{End, JobState, Policy, Snapshot, Submission};
pub use sink::StoreSink;
pub use store::{Assignment, Chunk, Counts, Limits, RetryError, Store, StreamReply, SubmitError};

use super::{JobSource, Taken};
use crate::config::ApiConfig;
use crate::job::{Delivery, Envelope};
use routes::Api;

/// How often results are forgotten and waiting jobs expire while nobody calls.
const SWEEP: Duration = Duration::from_secs(1);

/// What the API tells callers about the worker behind it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `RUNPOD_ENDPOINT_ID`: adds the SDK's route `/{id}/realtime`.
    pub id: Option<String>,
    /// JSON Schema of `input`, for `/openapi.json`.
    pub input_schema: Value,
    /// Jobs that the worker holds at once, for `/health`.
    pub concurrency: usize,
}

/// Starts the API on `listener` and returns the source that its jobs come from.
///
/// Once `shutdown` fires, no connection is accepted, waiting jobs fail, and requests in flight are answered;
/// [`ServerHandle::finish`] waits for that. `client` sends the webhooks.
///
/// # Errors
/// If the listener has no local address.
pub fn serve(
    config: &ApiConfig,
    endpoint: &Endpoint,
    listener: TcpListener,
    client: reqwest::Client,
    shutdown: CancellationToken,
) -> io::Result<(HttpSource, ServerHandle)> {
    let address = listener.local_addr()?;
    let (store, announcements) = Store::new(Limits::from(config));
    let api = Api {
        store: Arc::clone(&store),
        guard: Arc::new(guard::Guard::new(config.key.clone(), address)),
        openapi: Arc::new(openapi::document(&endpoint.input_schema)),
        concurrency: endpoint.concurrency,
    };
    let router = routes::router(api, endpoint.id.as_deref(), config.body_bytes);
    // Answers are small and awaited: waiting for more bytes to fill a packet costs up to 40 ms each.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));

    let closing = Arc::clone(&store);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.cancelled().await;
        closing.close();
    });
    let webhooks_end = CancellationToken::new();
    let sweeping = Arc::downgrade(&store);
    let handle = ServerHandle {
        address,
        server: tokio::spawn(async move { server.await }),
        webhooks: tokio::spawn(webhook::run(client, announcements, webhooks_end.clone())),
        webhooks_end,
        sweeper: tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                match sweeping.upgrade() {
                    Some(store) => store.sweep(),
                    None => break,
                }
            }
        }),
    };
    Ok((HttpSource { store }, handle))
}

/// The running server.
pub struct ServerHandle {
    address: SocketAddr,
    server: JoinHandle<io::Result<()>>,
    webhooks: JoinHandle<()>,
    webhooks_end: CancellationToken,
    sweeper: JoinHandle<()>,
}

impl ServerHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits up to `grace` for answers and webhooks in flight, then drops what is left. Call it after the worker has
    /// delivered its last outcome and `shutdown` has fired.
    pub async fn finish(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        match tokio::time::timeout_at(deadline, &mut self.server).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => warn!(%error, "the local API stopped with an error"),
            Ok(Err(error)) => warn!(%error, "the local API's task ended early"),
            Err(_) => warn!("connections of the local API were still open at the end of the grace period"),
        }
        self.webhooks_end.cancel();
        if tokio::time::timeout_at(deadline, &mut self.webhooks).await.is_err() {
            warn!("webhooks were still being delivered at the end of the grace period");
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.server.abort();
        self.webhooks.abort();
        self.sweeper.abort();
    }
}

/// Jobs that were sent to the local API.
pub struct HttpSource {
    store: Arc<Store>,
}

impl HttpSource {
    /// A source over a store that something else fills.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    fn envelope(&self, job: Assignment) -> Envelope {
        let sink = StoreSink::new(Arc::clone(&self.store), job.id.clone(), job.attempt);
        Envelope {
            id: job.id,
            input: job.input,
            delivery: Delivery::Local,
            time_limit: job.time_limit,
            stop: job.stop,
            sink: Arc::new(sink),
        }
    }
}

#[async_trait]
impl JobSource for HttpSource {
    async fn take(&mut self, want: usize, _busy: bool, shutdown: &CancellationToken) -> Taken {
        loop {
            if shutdown.is_cancelled() || self.store.is_closed() {
                self.store.close();
                return Taken::Exhausted;
            }
            // Expired jobs must not be handed out.
            self.store.sweep();
            let jobs = self.store.take(want.max(1));
            if !jobs.is_empty() {
                return Taken::Jobs(jobs.into_iter().map(|job| self.envelope(job)).collect());
            }
            tokio::select! {
                () = self.store.arrival() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

//! The local API.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Exit;
use super::args::ServeOptions;
use super::assemble::{self, AssembleError};
use super::signals::shutdown_token;
use crate::config::Config;
use crate::http_client;
use crate::source::http;

/// Why the API did not come up.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error("cannot listen on {host}:{port}")]
    Listen {
        host: String,
        port: u16,
        #[source]
        source: std::io::Error,
    },
}

/// Answers left open for status calls and webhooks once the last job is delivered.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until told to stop.
pub(super) async fn serve(config: Config, options: ServeOptions) -> Exit {
    match try_serve(config, options).await {
        Ok(exit) => exit,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(source, "{error}");
            Exit::Failed
        }
    }
}

async fn try_serve(config: Config, options: ServeOptions) -> Result<Exit, ServeError> {
    let shutdown = shutdown_token().map_err(AssembleError::from)?;
    let client = http_client::client().map_err(AssembleError::from)?;
    let worker = assemble::worker(&config, &client)?;
    let ServeOptions { host, port } = options;
    let listen = |source| ServeError::Listen { host: host.clone(), port, source };
    let listener = TcpListener::bind((host.as_str(), port)).await.map_err(listen)?;
    let endpoint = http::Endpoint {
        id: config.runpod.endpoint_id.clone(),
        input_schema: crate::input::schema(),
        concurrency: config.worker.concurrency,
    };
    // The server outlives the worker's shutdown by a moment: callers who wait still get their answers.
    let closing = CancellationToken::new();
    let (source, server) =
        http::serve(&config.api, &endpoint, listener, client, closing.clone()).map_err(listen)?;
    if let Some(warning) = http::exposure_warning(server.address(), config.api.key.as_deref()) {
        tracing::warn!("{warning}");
    }
    println!("listening on http://{}", server.address());
    let end = worker.run(Box::new(source), shutdown).await;
    closing.cancel();
    server.finish(FAREWELL).await;
    Ok(end.into())
}

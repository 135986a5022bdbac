//! The worker of a RunPod endpoint.

use super::Exit;
use super::assemble::{self, AssembleError};
use super::signals::shutdown_token;
use crate::config::Config;
use crate::http_client;
use crate::source::runpod::{self, StartError};

/// Why the worker did not come to work.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Takes jobs until told to stop.
pub(super) async fn work(config: Config) -> Exit {
    match try_work(config).await {
        Ok(exit) => exit,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(source, "{error}");
            Exit::Failed
        }
    }
}

async fn try_work(config: Config) -> Result<Exit, WorkError> {
    // First of all: a SIGTERM before the first take must find a handler.
    let shutdown = shutdown_token().map_err(AssembleError::from)?;
    tracing::info!("--- Starting Serverless Worker |  Version {} ---", env!("CARGO_PKG_VERSION"));
    let client = http_client::client().map_err(AssembleError::from)?;
    let fit = tokio::select! {
        fit = runpod::fitness::check(&config.runpod.fitness) => fit,
        () = shutdown.cancelled() => return Ok(Exit::Ok),
    };
    if let Err(failure) = fit {
        tracing::error!(check = failure.check, "unfit: {}", failure.reason);
        runpod::report_unhealthy(&config.runpod, client, &failure).await?;
        return Ok(Exit::Failed);
    }
    let worker = assemble::worker(&config, &client)?;
    let source = runpod::start(&config.runpod, &config.worker, client)?;
    let end = worker.run(Box::new(source), shutdown).await;
    tracing::info!(?end, "worker ends");
    Ok(end.into())
}

//! The parts that every mode shares: engines, statistics, caps, bucket.

use std::sync::Arc;

use crate::config::Config;
use crate::engine::dummy::DummyEngine;
use crate::engine::{Engine, Router};
use crate::http_client;
use crate::imaging::fonts::FontLibrary;
use crate::input::InputLimits;
use crate::output::{Bucket, BucketError};
use crate::progress::Statistics;
use crate::worker::{Executor, Shared, Worker};

/// Why the parts do not fit together.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssembleError {
    /// No TLS, no HTTP.
    #[error(transparent)]
    Client(#[from] http_client::ClientError),
    /// The bucket's settings cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// No thread for the engine, or no signal handler.
    #[error("the system refused a thread or a signal handler")]
    System(#[from] std::io::Error),
}

/// A worker for `config`. The engine is built on its own thread when the first job needs it, so this costs microseconds.
pub(super) fn worker(config: &Config, client: &reqwest::Client) -> Result<Worker, AssembleError> {
    let (font_dirs, step) = (config.engine.font_dirs.clone(), config.engine.test_mode_step);
    let executor = Executor::spawn(Box::new(move || -> Box<dyn Engine> {
        let fonts = Arc::new(FontLibrary::new(font_dirs.clone()));
        Box::new(Router::new(Box::new(DummyEngine::new(fonts, step)), None))
    }))?;
    let bucket = config.bucket.as_ref().map(|bucket| Bucket::new(bucket, client.clone())).transpose()?;
    Ok(Worker::new(Shared {
        config: config.worker.clone(),
        limits: InputLimits::from(&config.engine),
        statistics: Statistics::open(config.worker.statistics_file.clone()),
        executor,
        bucket,
        metrics: Arc::default(),
    }))
}

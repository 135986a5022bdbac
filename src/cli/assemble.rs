//! The parts that every mode shares: engines, statistics, caps, bucket.

use std::sync::Arc;

use crate::config::{Config, EngineConfig, ModelConfig};
use crate::engine::dummy::DummyEngine;
#[cfg(feature = "models")]
use crate::engine::real::{RealEngine, Setup};
use crate::engine::{Engine, Router};
use crate::http_client;
use crate::imaging::fonts::FontLibrary;
use crate::input::InputLimits;
#[cfg(feature = "models")]
use crate::memory::Limits;
#[cfg(feature = "models")]
use crate::models::checkpoint::Caches;
#[cfg(feature = "models")]
use crate::models::device;
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
    let (models, engine) = (config.models.clone(), config.engine.clone());
    let executor = Executor::spawn(Box::new(move || -> Box<dyn Engine> {
        let fonts = Arc::new(FontLibrary::new(font_dirs.clone()));
        let real = real_engine(&models, &engine, fonts.clone());
        Box::new(Router::new(Box::new(DummyEngine::new(fonts, step)), real))
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

/// The engine with nets, or why there is none. Runs on the engine's thread.
#[cfg(feature = "models")]
fn real_engine(
    models: &ModelConfig,
    engine: &EngineConfig,
    fonts: Arc<FontLibrary>,
) -> Result<Box<dyn Engine>, String> {
    let build = || -> Result<RealEngine, Box<dyn std::error::Error>> {
        let (target, dtype) = super::models::place(models)?;
        let quantisation = super::models::quantisation(models)?;
        let device = target.open()?;
        device::check(quantisation, &device)?;
        let caches = Caches::from_vars(|name| std::env::var(name).ok());
        let (models, limits) = (models.clone(), Limits::from(engine));
        Ok(RealEngine::new(Setup { models, caches, fonts, device, dtype, quantisation, limits })?)
    };
    match build() {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) => {
            tracing::error!("no engine with nets: {error}");
            Err(error.to_string())
        }
    }
}

#[cfg(not(feature = "models"))]
fn real_engine(_: &ModelConfig, _: &EngineConfig, _: Arc<FontLibrary>) -> Result<Box<dyn Engine>, String> {
    Err("this worker was built without nets: build it with the feature `models` or `cuda`".to_owned())
}

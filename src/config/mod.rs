//! Every environment variable that the worker reads, in one struct a section.
//!
//! Two stages: envy collects the raw strings of a section, then each is parsed and checked here, so that every problem
//! of a configuration is reported at once ([`ConfigErrors`]) and tests never touch the process environment.

mod models;
mod reader;
mod runpod;
mod sections;

pub use models::{FluxSource, ModelConfig, SdxlSource};
pub use runpod::{FitnessConfig, LogLevel, RunPodConfig};
pub use sections::{ApiConfig, BucketConfig, EngineConfig, WorkerConfig};

use reader::Reader;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The platform's variables (`RUNPOD_*`).
    pub runpod: RunPodConfig,
    /// How jobs are run and delivered (`MARQUEE_*`).
    pub worker: WorkerConfig,
    /// Pictures, fonts, memory policy.
    pub engine: EngineConfig,
    /// Which nets, and where they run.
    pub models: ModelConfig,
    /// Object storage (`BUCKET_*`); `None` if none is configured.
    pub bucket: Option<BucketConfig>,
    /// The local HTTP API (`MARQUEE_API_*`).
    pub api: ApiConfig,
}

impl Config {
    /// Reads the process environment.
    ///
    /// # Errors
    /// All problems together.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        // A variable that is not UTF-8 cannot be one of ours.
        Self::from_vars(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// Reads the given variables.
    ///
    /// # Errors
    /// All problems together.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        // An empty value means "not set": templates of container platforms leave such variables behind.
        let vars: Vec<_> = vars.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let mut reader = Reader::default();
        let config = Self {
            runpod: RunPodConfig::read(&vars, &mut reader),
            worker: WorkerConfig::read(&vars, &mut reader),
            engine: EngineConfig::read(&vars, &mut reader),
            models: ModelConfig::read(&vars, &mut reader),
            bucket: BucketConfig::read(&vars, &mut reader),
            api: ApiConfig::read(&vars, &mut reader),
        };
        reader.finish(config)
    }
}

/// All that is wrong with a configuration, one line a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem(s):\n  {}", .0.len(), .0.join("\n  "))]
pub struct ConfigErrors(pub Vec<String>);

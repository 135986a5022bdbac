//! What was typed, and which mode it means.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[cfg(feature = "models")]
use super::models::{BenchOptions, CheckpointArgs, GenerateArgs, ModelCommand, ModelsOptions, ParityOptions};
#[cfg(feature = "models")]
use super::plan::PlanOptions;
use crate::config::{Config, LogLevel};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the job failed, the worker is unfit, or there was nothing to run
  2  wrong arguments or configuration
  3  the engine or its device is beyond repair; replace the worker
  4  the grace period ran out before every result was delivered";

/// A serverless GPU worker: a phrase, a scene and a product photo go in, three pictures come out.
///
/// Without a command: the worker of a RunPod endpoint if RUNPOD_WEBHOOK_GET_JOB is set, else one local job from
/// --test_input or ./test_input.json, as with the official SDK.
#[derive(Debug, Parser)]
#[command(name = "marquee", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<SubArgs>,

    /// Run this job, a JSON object with "input", and print its result.
    #[arg(long = "test_input", value_name = "JSON")]
    test_input: Option<String>,
    /// Serve the local API instead of polling.
    #[arg(long = "rp_serve_api")]
    serve_api: bool,
    /// Port of the local API.
    #[arg(long = "rp_api_port", value_name = "PORT", default_value_t = 8000)]
    api_port: u16,
    /// Address of the local API.
    #[arg(long = "rp_api_host", value_name = "HOST", default_value = "localhost")]
    api_host: String,
    /// Jobs held at once by the local API.
    #[arg(long = "rp_api_concurrency", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    api_concurrency: u16,
    /// TRACE, DEBUG, INFO, WARN or ERROR.
    #[arg(long = "rp_log_level", value_name = "LEVEL", value_parser = parse_level)]
    log_level: Option<LogLevel>,
    /// Log at DEBUG (the SDK adds timings to the output; this worker always has them).
    #[arg(long = "rp_debugger")]
    debugger: bool,
}

#[derive(Debug, Subcommand)]
enum SubArgs {
    /// Run one job from a file and write its pictures into a folder.
    Run(RunOptions),
    /// Serve the platform's HTTP routes on this machine.
    Serve(ServeOptions),
    /// Print the JSON Schema of a job's input.
    Schema,
    /// Check fonts, configuration, endpoint and GPU, and say what to mend.
    Doctor,
    /// Make one picture with one net, to hold against the original.
    #[cfg(feature = "models")]
    #[command(subcommand)]
    Generate(GenerateArgs),
    /// Run goldens of the original and compare stage by stage; or compare kernels with their CPU twins.
    #[cfg(feature = "models")]
    Parity(ParityOptions),
    /// Print what will be on a card when, how much at most, and how long the transfers take; needs no card.
    #[cfg(feature = "models")]
    Plan(PlanOptions),
    /// Measure the nets, or single kernels, on this device and print JSON.
    #[cfg(feature = "models")]
    Bench(BenchOptions),
    /// Make or check checkpoints.
    #[cfg(feature = "models")]
    #[command(subcommand)]
    Models(CheckpointArgs),
}

/// `marquee run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    /// A JSON file: a job (`{"input": {...}}`) or the input alone.
    pub file: PathBuf,
    /// Folder for step1_result, step2_result, final_result and result.json.
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
}

/// `marquee serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeOptions {
    /// Address to listen on.
    #[arg(long, default_value = "localhost")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
}

/// The SDK's local test mode.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// `--test_input`; without it, `./test_input.json`.
    pub test_input: Option<String>,
}

/// What the program was asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Worker of a RunPod endpoint.
    Work,
    /// One job, printed.
    Local(LocalOptions),
    /// The local API.
    Serve(ServeOptions),
    /// One job, into a folder.
    Run(RunOptions),
    /// JSON Schema.
    Schema,
    /// Checks.
    Doctor,
    /// Commands on nets.
    #[cfg(feature = "models")]
    Models(ModelsOptions),
    /// A job's moves.
    #[cfg(feature = "models")]
    Plan(PlanOptions),
}

fn parse_level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text).ok_or_else(|| "expected TRACE, DEBUG, INFO, WARN or ERROR".to_owned())
}

impl Args {
    /// Flags win over variables.
    pub fn override_config(&self, config: &mut Config) {
        if self.debugger {
            config.runpod.log_level = LogLevel::Debug;
        }
        if let Some(level) = self.log_level {
            config.runpod.log_level = level;
        }
        if self.serve_api {
            config.worker.concurrency = config.worker.concurrency.max(self.api_concurrency.into());
        } else if config.runpod.realtime_port != 0 {
            config.worker.concurrency = config.worker.concurrency.max(config.runpod.realtime_concurrency);
        }
    }

    /// The mode, in the SDK's order: `--rp_serve_api`, `RUNPOD_REALTIME_PORT`, `--test_input` or no endpoint, endpoint.
    pub fn command(self, config: &Config) -> Command {
        match self.command {
            Some(SubArgs::Run(options)) => Command::Run(options),
            Some(SubArgs::Serve(options)) => Command::Serve(options),
            Some(SubArgs::Schema) => Command::Schema,
            Some(SubArgs::Doctor) => Command::Doctor,
            #[cfg(feature = "models")]
            Some(SubArgs::Generate(options)) => {
                Command::Models(ModelsOptions { command: ModelCommand::Generate(Box::new(options)) })
            }
            #[cfg(feature = "models")]
            Some(SubArgs::Parity(options)) => {
                Command::Models(ModelsOptions { command: ModelCommand::Parity(options) })
            }
            #[cfg(feature = "models")]
            Some(SubArgs::Bench(options)) => {
                Command::Models(ModelsOptions { command: ModelCommand::Bench(options) })
            }
            #[cfg(feature = "models")]
            Some(SubArgs::Plan(options)) => Command::Plan(options),
            #[cfg(feature = "models")]
            Some(SubArgs::Models(args)) => Command::Models(ModelsOptions { command: args.into() }),
            None if self.serve_api => {
                Command::Serve(ServeOptions { host: self.api_host, port: self.api_port })
            }
            None if config.runpod.realtime_port != 0 => Command::Serve(ServeOptions {
                host: IpAddr::from([0, 0, 0, 0]).to_string(),
                port: config.runpod.realtime_port,
            }),
            None if self.test_input.is_some() || config.runpod.get_job.is_none() => {
                Command::Local(LocalOptions { test_input: self.test_input })
            }
            None => Command::Work,
        }
    }
}

//! The command line: which mode is meant, and the parts put together for it.
//!
//! Every mode is the same worker with another source and sink: `work` (a RunPod endpoint), `serve` (the local API),
//! `run` (one file into a folder), `local` (the SDK's test mode).

mod args;
mod assemble;
mod doctor;
mod exit;
mod local;
#[cfg(feature = "models")]
mod models;
#[cfg(feature = "models")]
mod plan;
mod run;
mod serve;
mod signals;
mod work;

pub use args::{Args, Command};
pub use exit::Exit;

use crate::config::Config;
use crate::telemetry::{self, Destination};

/// Installs the log format that suits `command`.
pub fn init_log(command: &Command, config: &Config) {
    let json_lines = config.runpod.endpoint_id.is_some();
    match command {
        Command::Work | Command::Local(_) | Command::Serve(_) => {
            telemetry::init(config.runpod.log_level, json_lines, Destination::Stdout);
        }
        // Their standard output is their result; a bar and information lines would fight over the terminal.
        _ => {
            let quiet = config.runpod.log_level.max(crate::config::LogLevel::Warn);
            telemetry::init(quiet, false, Destination::Stderr);
        }
    }
}

/// Runs `command` to its end.
pub async fn dispatch(command: Command, config: Config) -> Exit {
    match command {
        Command::Work => work::work(config).await,
        Command::Local(options) => local::local(config, options).await,
        Command::Serve(options) => serve::serve(config, options).await,
        Command::Run(options) => run::run(config, options).await,
        Command::Schema => {
            println!("{:#}", crate::input::schema());
            Exit::Ok
        }
        Command::Doctor => doctor::doctor(&config).await,
        #[cfg(feature = "models")]
        Command::Models(options) => tokio::task::block_in_place(|| models::models(&config, options)),
        #[cfg(feature = "models")]
        Command::Plan(options) => tokio::task::block_in_place(|| plan::plan(&config, &options)),
    }
}

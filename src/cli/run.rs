//! `marquee run FILE --out DIR`: one job from a file, its pictures into a folder.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::args::RunOptions;
use super::signals::shutdown_token;
use super::{Exit, assemble};
use crate::config::Config;
use crate::http_client;
use crate::job::{Delivery, Envelope, JobId, StopHandle};
use crate::sink::folder::FolderSink;
use crate::source::file::OneJob;

/// Runs the file's job.
pub(super) async fn run(config: Config, options: RunOptions) -> Exit {
    match try_run(config, options).await {
        Ok(exit) => exit,
        Err(problem) => {
            eprintln!("{problem}");
            Exit::Failed
        }
    }
}

async fn try_run(config: Config, options: RunOptions) -> Result<Exit, String> {
    let shown = options.file.display().to_string();
    let text = std::fs::read_to_string(&options.file).map_err(|error| format!("{shown}: {error}"))?;
    let mut job: Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: not JSON: {error}"))?;
    // A whole job or the input alone: both are what people have at hand.
    let input = match job.get_mut("input").map(Value::take) {
        Some(input) => input,
        None => job,
    };

    let sink = Arc::new(FolderSink::new(&options.out, bar()));
    let envelope = Envelope {
        id: JobId::new("run").map_err(|error| error.to_string())?,
        input,
        delivery: Delivery::Local,
        time_limit: None,
        stop: StopHandle::new(),
        sink: sink.clone(),
    };
    let client = http_client::client().map_err(|error| error.to_string())?;
    let worker = assemble::worker(&config, &client).map_err(|error| error.to_string())?;
    let shutdown = shutdown_token().map_err(|error| format!("no signal handler: {error}"))?;
    let end = worker.run(Box::new(OneJob::new(envelope)), shutdown).await;
    match sink.take_result() {
        Some(Ok(files)) => {
            for file in files {
                println!("{}", file.display());
            }
            Ok(end.into())
        }
        Some(Err(problem)) => Err(format!("{shown}: {problem}")),
        None => Err(format!("{shown}: the job ended without a result")),
    }
}

/// Drawn on a terminal's standard error only; elsewhere it is silent.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos:>3} %  {msg}") {
        bar.set_style(style);
    }
    bar
}

//! The SDK's local test mode: one job from `--test_input` or `./test_input.json`, its result on standard output.

use std::sync::Arc;

use serde_json::Value;

use super::args::LocalOptions;
use super::signals::shutdown_token;
use super::{Exit, assemble};
use crate::config::Config;
use crate::http_client;
use crate::job::{Delivery, Envelope, JobId, StopHandle};
use crate::sink::print::PrintSink;
use crate::source::file::OneJob;

const FILE: &str = "test_input.json";

/// Runs the job and prints its result.
pub(super) async fn local(config: Config, options: LocalOptions) -> Exit {
    let (origin, text) = match options.test_input {
        Some(text) => ("--test_input", text),
        None => match std::fs::read_to_string(FILE) {
            Ok(text) => (FILE, text),
            Err(error) => {
                tracing::warn!(
                    "nothing to run: {FILE}: {error}. Set RUNPOD_WEBHOOK_GET_JOB, give --test_input, or see `marquee --help`"
                );
                return Exit::Failed;
            }
        },
    };
    let sink = Arc::new(PrintSink::default());
    let envelope = match envelope(&text, sink.clone()) {
        Ok(envelope) => envelope,
        Err(problem) => {
            tracing::error!("{origin}: {problem}");
            return Exit::Failed;
        }
    };
    let worker = http_client::client()
        .map_err(assemble::AssembleError::from)
        .and_then(|client| assemble::worker(&config, &client));
    match (worker, shutdown_token()) {
        (Ok(worker), Ok(shutdown)) => {
            let exit: Exit = worker.run(Box::new(OneJob::new(envelope)), shutdown).await.into();
            if exit == Exit::Ok && !sink.succeeded() { Exit::Failed } else { exit }
        }
        (Err(error), _) => {
            tracing::error!("{error}");
            Exit::Failed
        }
        (_, Err(error)) => {
            tracing::error!("no signal handler: {error}");
            Exit::Failed
        }
    }
}

fn envelope(text: &str, sink: Arc<PrintSink>) -> Result<Envelope, String> {
    let mut job: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let id = match job.get("id") {
        None | Some(Value::Null) => "local_test".to_owned(),
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
    };
    match job.get_mut("input").map(Value::take) {
        None | Some(Value::Null) => Err("the job has no \"input\"".to_owned()),
        Some(input) => Ok(Envelope {
            id: JobId::new(id).map_err(|error| error.to_string())?,
            input,
            delivery: Delivery::Local,
            time_limit: None,
            stop: StopHandle::new(),
            sink,
        }),
    }
}

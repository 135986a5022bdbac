//! `marquee-endpoint-sim`: a RunPod endpoint on the loopback, for demonstrations and benchmarks.
//!
//! Prints the variables of a worker as `export` lines, then one JSON object an event. Ends after the last result.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod endpoint;

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser;
use endpoint::{Endpoint, Recorded, Route};
use serde_json::{Value, json};

/// Serves jobs to one worker and keeps what it sends back.
#[derive(Parser)]
struct Args {
    /// A request as customers send it: {"input": {…}}.
    payload: PathBuf,
    /// Jobs to hand out.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Folder for the results: a JSON file and the pictures of each job.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to write the `export` lines instead of standard output.
    #[arg(long)]
    env_file: Option<PathBuf>,
    /// Longest hold of a poll without a job, in seconds.
    #[arg(long, default_value_t = 30.0)]
    hold_s: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    let at = |path: &PathBuf, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(&args.payload).map_err(|error| at(&args.payload, &error))?;
    let payload: Value = serde_json::from_str(&text).map_err(|error| at(&args.payload, &error))?;
    let input = payload.get("input").ok_or_else(|| at(&args.payload, &"no member `input`"))?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|error| at(out, &error))?;
    }

    let endpoint = Endpoint::holding(Duration::from_secs_f64(args.hold_s)).await;
    let lines: Vec<_> =
        endpoint.vars().iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let lines = lines.concat();
    match &args.env_file {
        Some(path) => std::fs::write(path, lines).map_err(|error| at(path, &error))?,
        None => print!("{lines}"),
    }
    for n in 1..=args.jobs {
        endpoint.push_job(json!({ "id": format!("job-{n}"), "input": input }));
    }

    let began = Instant::now();
    let (mut seen, mut results) = (0, HashSet::new());
    while results.len() < args.jobs {
        endpoint.wait_past(seen).await;
        for request in &endpoint.since(seen) {
            seen += 1;
            print_event(&event(request, began));
            if request.route == Route::Done && !request.is_progress() {
                let id = request.job_id();
                if let Some(out) = &args.out {
                    let path = out.join(format!("{id}.json"));
                    std::fs::write(&path, &request.body).map_err(|error| at(&path, &error))?;
                    write_pictures(out, &id, &request.json())?;
                }
                results.insert(id);
            }
        }
    }
    Ok(())
}

/// The pictures of a completed job as files beside its JSON.
fn write_pictures(folder: &Path, id: &str, body: &Value) -> Result<(), String> {
    let images = body["output"]["images"].as_object();
    for (name, image) in images.into_iter().flatten() {
        let Some(file) = image.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok()) else { continue };
        let extension = body["output"]["image_formats"][name].as_str().unwrap_or("png");
        let path = folder.join(format!("{id}.{name}.{extension}"));
        std::fs::write(&path, file).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn event(request: &Recorded, began: Instant) -> Value {
    let t = request.at.saturating_duration_since(began).as_secs_f64();
    let body = request.json();
    match request.route {
        Route::Done if request.is_progress() => {
            json!({ "t": t, "event": "progress", "job": request.job_id(), "output": body.get("output") })
        }
        Route::Done => json!({
            "t": t,
            "event": "result",
            "job": request.job_id(),
            "bytes": request.body.len(),
            "ok": body.get("output").is_some(),
            "error": body.get("error"),
        }),
        route => json!({ "t": t, "event": format!("{route:?}").to_lowercase(), "target": request.target }),
    }
}

fn print_event(event: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody left to read is no reason to stop serving.
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}

//! The program itself: modes, exit codes, signals, memory.

mod commands;
#[cfg(feature = "models")]
mod jobs;
#[cfg(feature = "models")]
mod kernels;
#[cfg(feature = "models")]
mod models;
mod modes;
#[cfg(feature = "models")]
mod plan;
mod signals;
mod soak;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::support::endpoint::{Recorded, Route};

/// The program with nothing of this machine's environment but a cache folder of its own.
fn marquee(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marquee"));
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs to the end: exit code, standard output, standard error.
async fn finish(mut command: Command) -> (i32, String, String) {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("the program did not end within a minute").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Whether a request delivers a result (progress goes to the same route).
fn is_result(request: &Recorded) -> bool {
    request.route == Route::Done && !request.is_progress()
}

/// As the platform ends a worker.
fn terminate(child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

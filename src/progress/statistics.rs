//! How long a unit of each kind of sub-step took: moving averages, kept on disk between processes.
//!
//! A convenience, never a dependency: a file that is missing, damaged or on a full disk costs the forecast, not the job.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{SubStep, Tracker};
use crate::input::Plan;
use crate::input::plan::BackgroundModel;

/// Weight of the newest run: the last five runs make up about five sixths of the average.
const NEWEST: f64 = 0.3;

/// Kinds kept at most (sub-steps x models x sizes in use); the least often updated go first.
const MOST_KINDS: usize = 256;

/// Layout of the file; another number is ignored.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Average {
    unit_seconds: f64,
    runs: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    kinds: BTreeMap<String, Average>,
}

/// Moving averages of run times, shared by all jobs of a worker.
pub struct Statistics {
    path: Option<PathBuf>,
    kinds: Mutex<BTreeMap<String, Average>>,
}

impl Statistics {
    /// Loads `path` if it is there and readable; `None` keeps everything in memory.
    pub fn open(path: Option<PathBuf>) -> Self {
        let kinds = path.as_deref().map(load).unwrap_or_default();
        Self { path, kinds: Mutex::new(kinds) }
    }

    /// A tracker that forecasts `plan` from what is known.
    pub fn tracker(&self, plan: &Plan) -> Tracker {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        Tracker::new(plan, |sub_step| kinds.get(&kind(plan, sub_step)).map(|average| average.unit_seconds))
    }

    /// Takes in what a finished run measured.
    pub fn learn(&self, plan: &Plan, tracker: &Tracker) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for (sub_step, seconds) in tracker.measured().filter(|(_, seconds)| seconds.is_finite()) {
            kinds
                .entry(kind(plan, sub_step))
                .and_modify(|average| {
                    average.unit_seconds += NEWEST * (seconds - average.unit_seconds);
                    average.runs += 1;
                })
                .or_insert(Average { unit_seconds: seconds, runs: 1 });
        }
        while kinds.len() > MOST_KINDS {
            let Some(rarest) = kinds.iter().min_by_key(|(_, average)| average.runs).map(|(k, _)| k.clone())
            else {
                break;
            };
            kinds.remove(&rarest);
        }
    }

    /// Writes the file: whole, or not at all. Not flushed to the disk: after a power cut the averages may start afresh.
    ///
    /// # Errors
    /// The system's error, with the path; the averages in memory stay.
    pub fn save(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = serde_json::to_vec_pretty(&File { version: VERSION, kinds })?;
        write_whole(path, &text)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

fn load(path: &Path) -> BTreeMap<String, Average> {
    let file = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice::<File>(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "run-time statistics not readable, starting afresh");
            return BTreeMap::new();
        }
    };
    match file {
        Ok(file) if file.version == VERSION => {
            file.kinds.into_iter().filter(|(_, average)| average.unit_seconds.is_finite()).collect()
        }
        Ok(_) => BTreeMap::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "run-time statistics damaged, starting afresh");
            BTreeMap::new()
        }
    }
}

/// A reader sees the old file or the new one, also after a crash or on a full disk.
fn write_whole(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // The process id keeps two workers on one volume from writing the same temporary file.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing more can be done about a leftover.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// What must be alike for two runs of a sub-step to cost the same.
fn kind(plan: &Plan, sub_step: SubStep) -> String {
    let model = match (sub_step, &plan.background) {
        (SubStep::BackgroundGeneration, Some(background)) if background.model == BackgroundModel::Sdxl => {
            "/sdxl"
        }
        _ => "",
    };
    let mode = if plan.test_mode { "/test" } else { "" };
    format!("{sub_step}{model}{mode}/{}x{}", plan.width, plan.height)
}

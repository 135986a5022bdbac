//! The sink of `marquee run`: images and `result.json` into a folder, progress onto a bar.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{DeliveryError, JobSink};
use crate::job::Outcome;
use crate::progress::ProgressReport;

/// Writes one job's outcome into a folder.
pub struct FolderSink {
    folder: PathBuf,
    bar: ProgressBar,
    written: Mutex<Option<Result<Vec<PathBuf>, String>>>,
}

impl FolderSink {
    /// Files go into `folder`, which is made if it is not there. `bar` shows percent of 100.
    pub fn new(folder: impl Into<PathBuf>, bar: ProgressBar) -> Self {
        Self { folder: folder.into(), bar, written: Mutex::new(None) }
    }

    /// After delivery: the files written, or the job's failure in words.
    pub fn take_result(&self) -> Option<Result<Vec<PathBuf>, String>> {
        self.written.lock().ok()?.take()
    }

    fn write(&self, outcome: &Outcome) -> Result<Result<Vec<PathBuf>, String>, DeliveryError> {
        let output = match outcome {
            Outcome::Completed(output) => output,
            Outcome::Failed(failure) => {
                let result = json!({"status": "failed", "error": failure});
                self.put("result.json", pretty(&result).as_bytes())?;
                return Ok(Err(failure.to_string()));
            }
            Outcome::Stopped(reason) => return Ok(Err(format!("stopped: {reason}"))),
        };
        let mut files = Vec::new();
        let mut result: Value = serde_json::from_str(output.get()).unwrap_or(Value::Null);
        let format = result["parameters"]["output_format"].as_str().unwrap_or("png").to_owned();
        if let Some(images) = result["images"].as_object_mut() {
            for (name, image) in images.iter_mut() {
                let Some(bytes) = image.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok()) else {
                    continue;
                };
                let file = format!("{name}.{}", extension(&bytes, &format));
                files.push(self.put(&file, &bytes)?);
                // The file says the rest: result.json stays readable.
                *image = json!(file);
            }
        }
        files.push(self.put("result.json", pretty(&result).as_bytes())?);
        Ok(Ok(files))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, DeliveryError> {
        let path = self.folder.join(name);
        let failed = |source, path: &Path| DeliveryError::Write { path: path.display().to_string(), source };
        std::fs::create_dir_all(&self.folder).map_err(|error| failed(error, &self.folder))?;
        std::fs::write(&path, bytes).map_err(|error| failed(error, &path))?;
        Ok(path)
    }
}

/// By content: the size guard and transparent JPEGs change formats.
fn extension<'a>(bytes: &[u8], asked: &'a str) -> &'a str {
    match image::guess_format(bytes) {
        Ok(image::ImageFormat::Png) => "png",
        Ok(image::ImageFormat::Jpeg) => "jpg",
        Ok(image::ImageFormat::WebP) => "webp",
        _ => asked,
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[async_trait]
impl JobSink for FolderSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        self.bar.set_position(report.percent as u64);
        self.bar.set_message(format!("{}: {}", report.message, report.sub_step));
        Ok(())
    }

    async fn deliver(&self, outcome: &Outcome, _refresh: bool) -> Result<(), DeliveryError> {
        let written = self.write(outcome);
        self.bar.finish_and_clear();
        let (shown, result) = match written {
            Ok(shown) => (shown, Ok(())),
            Err(error) => {
                let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                (Err(format!("{error}{source}")), Err(error))
            }
        };
        if let Ok(mut slot) = self.written.lock() {
            *slot = Some(shown);
        }
        result
    }
}

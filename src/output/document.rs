//! The answer as an object: pictures, what was used, how long it took. Written once, into one buffer.
//!
//! [`super::size_guard`] changes a document before it is written; [`super::bucket`] takes its files.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use image::DynamicImage;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};
use url::Url;

use super::ahead::Ahead;
use super::format::{extension, holding};
use crate::engine::Artifacts;
use crate::imaging::codecs::{EncodeError, encode};
use crate::input::Plan;
use crate::input::plan::{OutputFormat, OutputPlan};
use crate::job::{Failure, FailureKind};
use crate::progress::{Step, SubStep};

/// Name of the last step's picture in the answer.
pub const FINAL: &str = "final_result";

/// What the answer repeats of the plan.
#[derive(Debug, Clone)]
pub struct Facts {
    output: OutputPlan,
    seed: u64,
    warnings: Vec<String>,
    parameters: Map<String, Value>,
}

impl Facts {
    /// Copies what is needed, and no pixels.
    pub fn of(plan: &Plan) -> Self {
        Self {
            output: plan.output,
            seed: plan.seed,
            warnings: plan.warnings.clone(),
            parameters: plan.parameters.clone(),
        }
    }
}

/// One encoded picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its key in `images`.
    pub name: &'static str,
    /// Its pixels, for another encoding; shared by pictures that are equal.
    pub image: Arc<DynamicImage>,
    /// How `file` is encoded.
    pub format: OutputFormat,
    /// The file's bytes; shared by pictures that are equal.
    pub file: Bytes,
}

/// The answer before it is written.
#[derive(Debug, Clone)]
pub struct Document {
    /// Pictures that travel in the body.
    pub pictures: Vec<Picture>,
    /// Remarks, in the order in which they arose.
    pub warnings: Vec<String>,
    urls: Map<String, Value>,
    stored_formats: Map<String, Value>,
    seed: u64,
    timings: Value,
    memory: Value,
    parameters: Map<String, Value>,
}

impl Document {
    /// Encodes the pictures of a run.
    ///
    /// # Errors
    /// [`FailureKind::Unserialisable`] if a picture cannot be encoded.
    pub fn encode(artifacts: Artifacts, plan: &Plan) -> Result<Self, Failure> {
        Self::encode_with(artifacts, Facts::of(plan), &Ahead::of(plan))
    }

    /// Like [`Self::encode`], for another thread than the plan's; what is encoded `ahead` is waited for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with(artifacts: Artifacts, facts: Facts, ahead: &Ahead) -> Result<Self, Failure> {
        let started = std::time::Instant::now();
        let mut warnings = facts.warnings;
        warnings.extend(artifacts.warnings);
        let Some(final_image) = artifacts.final_image else {
            return Err(Failure::new(FailureKind::Unserialisable, "the engine returned no final image"));
        };
        let mut named = vec![(FINAL, final_image)];
        if facts.output.return_intermediate {
            let steps = [("step1_result", artifacts.step1), ("step2_result", artifacts.step2)];
            let steps = steps.into_iter().filter_map(|(name, image)| Some((name, image?)));
            named.splice(0..0, steps);
        }
        let pictures = encode_all(named, facts.output.format, ahead, &mut warnings)?;
        let timings = timings(&artifacts.timings, started.elapsed())?;
        Ok(Self {
            pictures,
            warnings,
            urls: Map::new(),
            stored_formats: Map::new(),
            seed: facts.seed,
            timings,
            memory: artifacts.memory,
            parameters: facts.parameters,
        })
    }

    /// Replaces the pictures by addresses, one each in the same order.
    pub fn move_to(&mut self, urls: Vec<Url>) {
        for (picture, url) in self.pictures.drain(..).zip(urls) {
            self.urls.insert(picture.name.to_owned(), url.as_str().into());
            self.stored_formats.insert(picture.name.to_owned(), extension(picture.format).into());
        }
    }

    /// Everything behind the pictures, as members without the opening brace.
    fn members(&self) -> Result<String, Failure> {
        let mut formats = self.stored_formats.clone();
        for picture in &self.pictures {
            formats.insert(picture.name.to_owned(), extension(picture.format).into());
        }
        let mut members = Map::new();
        if !self.urls.is_empty() {
            members.insert("image_urls".to_owned(), Value::Object(self.urls.clone()));
        }
        members.insert("image_formats".to_owned(), Value::Object(formats));
        members.insert("seed".to_owned(), self.seed.into());
        members.insert("warnings".to_owned(), json!(self.warnings));
        members.insert("timings".to_owned(), self.timings.clone());
        members.insert("memory".to_owned(), self.memory.clone());
        members.insert("parameters".to_owned(), Value::Object(self.parameters.clone()));
        let text = serde_json::to_string(&members).map_err(|e| unserialisable(&e))?;
        Ok(text.strip_prefix('{').unwrap_or(&text).to_owned())
    }

    /// Bytes that [`Self::write`] will produce; exact.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn size(&self) -> Result<u64, Failure> {
        Ok(self.size_with(&self.members()?) as u64)
    }

    fn size_with(&self, members: &str) -> usize {
        // `"name":"…"` and a comma between two.
        let pictures: usize =
            self.pictures.iter().map(|p| p.name.len() + 5 + p.file.len().div_ceil(3) * 4).sum();
        HEAD.len() + pictures + self.pictures.len().saturating_sub(1) + TAIL.len() + members.len()
    }

    /// Writes the object. Base64 goes straight into the one buffer, which has the exact size from the start.
    ///
    /// # Errors
    /// [`FailureKind::Unserialisable`] if something in it cannot be JSON.
    pub fn write(&self) -> Result<Box<RawValue>, Failure> {
        let members = self.members()?;
        let mut text = String::with_capacity(self.size_with(&members));
        text.push_str(HEAD);
        for (index, picture) in self.pictures.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push('"');
            text.push_str(picture.name);
            text.push_str("\":\"");
            STANDARD.encode_string(&picture.file, &mut text);
            text.push('"');
        }
        text.push_str(TAIL);
        text.push_str(&members);
        RawValue::from_string(text).map_err(|e| unserialisable(&e))
    }
}

const HEAD: &str = r#"{"status":"completed","images":{"#;
const TAIL: &str = "},";

fn unserialisable(error: &serde_json::Error) -> Failure {
    Failure::new(FailureKind::Unserialisable, format!("the result is no JSON: {error}"))
}

/// A number for the answer. serde_json would write a non-finite one as `null`, which hides an error.
///
/// # Errors
/// [`FailureKind::Unserialisable`] naming `what`.
pub fn finite(what: &str, number: f64) -> Result<Value, Failure> {
    Number::from_f64(number).map(Value::Number).ok_or_else(|| {
        Failure::new(FailureKind::Unserialisable, format!("{what} is {number}, which JSON cannot express"))
    })
}

/// Seconds by step and, within each, by sub-step; then encoding and all of it.
fn timings(run: &[(SubStep, Duration)], encoding: Duration) -> Result<Value, Failure> {
    let seconds = |what: &str, time: Duration| finite(what, (time.as_secs_f64() * 1e6).round() / 1e6);
    let mut all = Map::new();
    for step in Step::ALL {
        let parts: Vec<_> = run.iter().filter(|(sub_step, _)| sub_step.step() == step).collect();
        if parts.is_empty() {
            continue;
        }
        let mut of_step = Map::new();
        for (sub_step, time) in &parts {
            of_step.insert(sub_step.as_str().to_owned(), seconds(sub_step.as_str(), *time)?);
        }
        of_step.insert("total".to_owned(), seconds("total", parts.iter().map(|(_, time)| *time).sum())?);
        all.insert(step.as_str().to_owned(), of_step.into());
    }
    all.insert("encoding".to_owned(), seconds("encoding", encoding)?);
    let total = run.iter().map(|(_, time)| *time).sum::<Duration>() + encoding;
    all.insert("total".to_owned(), seconds("total", total)?);
    Ok(all.into())
}

/// The format that can hold `image`, with a remark if it is not the one asked for.
fn fitting(
    name: &str,
    image: &DynamicImage,
    wanted: OutputFormat,
    warnings: &mut Vec<String>,
) -> OutputFormat {
    let format = holding(image, wanted);
    if format != wanted {
        warnings.push(format!("{name} is transparent, which JPEG cannot express: it is written as PNG"));
    }
    format
}

/// Encodes each different image once, on threads of their own, unless it was encoded ahead.
fn encode_all(
    named: Vec<(&'static str, DynamicImage)>,
    wanted: OutputFormat,
    ahead: &Ahead,
    warnings: &mut Vec<String>,
) -> Result<Vec<Picture>, Failure> {
    // After a run that ends with step 1 or 2, the final image is that step's image.
    let mut different: Vec<(&'static str, Arc<DynamicImage>, OutputFormat)> = Vec::new();
    let mut index_of = Vec::new();
    for (name, image) in named {
        let known = different.iter().position(|(_, known, _)| **known == image);
        let index = known.unwrap_or_else(|| {
            let format = fitting(name, &image, wanted, warnings);
            different.push((name, Arc::new(image), format));
            different.len() - 1
        });
        index_of.push((name, index));
    }
    let done = Mutex::new(ahead.done());
    let file = |image: &DynamicImage, format| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = done.iter().position(|(made, _)| made == image) {
            return done.swap_remove(at).1;
        }
        drop(done);
        encode(image, format)
    };
    let files = std::thread::scope(|scope| {
        let file = &file;
        let running: Vec<_> =
            different.iter().map(|(_, image, format)| scope.spawn(move || file(image, *format))).collect();
        running.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut encoded = Vec::new();
    for (outcome, (name, image, format)) in files.into_iter().zip(&different) {
        let file = match outcome {
            Ok(Ok(file)) => Bytes::from(file),
            Ok(Err(error)) => return Err(not_encoded(name, &error)),
            Err(_) => {
                return Err(Failure::new(
                    FailureKind::Unserialisable,
                    format!("{name}: the {} encoder panicked", extension(*format)),
                ));
            }
        };
        encoded.push((image, *format, file));
    }
    let picture = |(name, index): (&'static str, usize)| {
        encoded.get(index).map(|(image, format, file)| Picture {
            name,
            image: Arc::clone(image),
            format: *format,
            file: file.clone(),
        })
    };
    Ok(index_of.into_iter().filter_map(picture).collect())
}

/// The failure for a picture that no encoder takes.
pub(super) fn not_encoded(name: &str, error: &EncodeError) -> Failure {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Failure::new(FailureKind::Unserialisable, format!("{name}: {error}: {cause}"))
}

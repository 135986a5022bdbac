//! From the body of a take to jobs, each checked by itself: one bad element must not cost its neighbours.
//!
//! Pure; [`super::take`] turns the result into envelopes.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::endpoint::shorten;
use crate::job::{Delivery, JobId};

/// A job as the platform sent it.
#[derive(Debug)]
pub struct WireJob {
    /// Its name.
    pub id: JobId,
    /// Its `input` (`Null` if absent, which the validator answers), or why that is no JSON after all: `\ud800` and
    /// nesting beyond the parser's depth are found only when the value is built.
    pub input: Result<Value, String>,
    /// `/runsync` jobs have ids that begin with `sync-`.
    pub delivery: Delivery,
    /// `policy.executionTimeout`, sent in milliseconds.
    pub time_limit: Option<Duration>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    id: Option<Value>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    policy: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Policy {
    #[serde(rename = "executionTimeout")]
    execution_timeout: Option<f64>,
}

/// The jobs in `body`: one object or an array, whichever was asked for. `Ok` and empty if the platform had none
/// (`null`, `[]`, nothing).
///
/// # Errors
/// In words, if the body is no JSON or holds elements of which none is a job.
pub fn parse(body: &[u8]) -> Result<Vec<WireJob>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let whole: &RawValue = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    let elements: Vec<&RawValue> = match whole.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(whole.get()).map_err(|error| error.to_string())?,
        Some(b'n') => Vec::new(),
        _ => vec![whole],
    };
    let sent = elements.len();
    let mut jobs = Vec::with_capacity(sent);
    let mut last_problem = String::new();
    for element in elements {
        match one(element) {
            Ok(job) => jobs.push(job),
            Err(problem) => {
                tracing::warn!(%problem, body = %shorten(element.get()), "skipped an element that is no job");
                last_problem = problem;
            }
        }
    }
    if jobs.is_empty() && sent > 0 { Err(last_problem) } else { Ok(jobs) }
}

fn one(element: &RawValue) -> Result<WireJob, String> {
    let wire: Wire<'_> =
        serde_json::from_str(element.get()).map_err(|error| format!("not a job object: {error}"))?;
    let text = match &wire.id {
        None => return Err("the job has no id".to_owned()),
        Some(Value::String(id)) => Cow::Borrowed(id.as_str()),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => {
            // The platform sends strings. Refusing would lose the job; its decimal text is what a URL would carry.
            tracing::warn!(%id, "the job's id is a number; using its decimal text");
            Cow::Owned(id.to_string())
        }
        Some(other) => return Err(format!("the job's id is {}, expected a string", kind(other))),
    };
    let id = JobId::new(&text).map_err(|error| error.to_string())?;
    let input = wire.input.map_or(Ok(Value::Null), |raw| {
        serde_json::from_str(raw.get()).map_err(|error| format!("input cannot be read: {error}"))
    });
    let delivery = if text.starts_with("sync-") { Delivery::Waiting } else { Delivery::Queued };
    Ok(WireJob { id, input, delivery, time_limit: wire.policy.and_then(time_limit) })
}

/// An unreadable policy is no reason to refuse the job: the worker's own limit applies.
fn time_limit(policy: &RawValue) -> Option<Duration> {
    let policy: Policy = serde_json::from_str(policy.get()).ok()?;
    let milliseconds = policy.execution_timeout.filter(|ms| *ms >= 1.0)?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a fraction",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

//! From a request's body to a [`Submission`], or to a 422 that says what is wrong where.

use std::time::Duration;

use serde_json::{Map, Value, json};
use url::Url;

use super::record::{Policy, Submission};

const DAY_MS: u64 = 86_400_000;

/// One thing wrong with a request, in the shape that the official SDK's local server uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `missing`, `dict_type`, `json_invalid`.
    pub kind: &'static str,
    /// Path below the body, dots between members.
    pub path: &'static str,
    /// What, expected, found.
    pub message: String,
}

impl Problem {
    fn new(kind: &'static str, path: &'static str, message: impl Into<String>) -> Self {
        Self { kind, path, message: message.into() }
    }

    /// As an element of `detail`.
    pub fn to_json(&self) -> Value {
        let loc: Vec<_> =
            std::iter::once("body").chain(self.path.split('.').filter(|part| !part.is_empty())).collect();
        json!({ "type": self.kind, "loc": loc, "msg": self.message })
    }
}

/// Reads a body. `s3Config` and unknown members are accepted and ignored, as the platform does.
///
/// # Errors
/// Every problem of the request together.
pub fn read(body: &[u8], waiting: bool) -> Result<Submission, Vec<Problem>> {
    let mut members: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => members,
        Ok(other) => {
            let message = format!("expected an object with an \"input\" member, found {}", name(&other));
            return Err(vec![Problem::new("dict_type", "", message)]);
        }
        Err(_) if body.iter().all(u8::is_ascii_whitespace) => {
            let message = "the body is empty; expected a JSON object with an \"input\" member";
            return Err(vec![Problem::new("missing", "", message)]);
        }
        Err(error) => return Err(vec![Problem::new("json_invalid", "", format!("not JSON: {error}"))]),
    };
    let mut problems = Vec::new();
    let input = members.remove("input");
    match &input {
        Some(Value::Object(_)) => {}
        None => problems.push(Problem::new("missing", "input", "\"input\" is missing; expected an object")),
        Some(other) => {
            let message = format!("\"input\" must be an object, found {}", name(other));
            problems.push(Problem::new("dict_type", "input", message));
        }
    }
    let policy = read_policy(members.get("policy"), &mut problems);
    let webhook = read_webhook(members.get("webhook"), &mut problems);
    match input {
        Some(input) if problems.is_empty() => {
            Ok(Submission { input, bytes: body.len(), policy, webhook, waiting })
        }
        _ => Err(problems),
    }
}

fn read_policy(policy: Option<&Value>, problems: &mut Vec<Problem>) -> Policy {
    let members = match policy {
        None | Some(Value::Null) => return Policy::default(),
        Some(Value::Object(members)) => members,
        Some(other) => {
            let message = format!("\"policy\" must be an object, found {}", name(other));
            problems.push(Problem::new("dict_type", "policy", message));
            return Policy::default();
        }
    };
    // The platform's bounds, so that what passes here passes there.
    Policy {
        execution_timeout: read_millis(
            members.get("executionTimeout"),
            "policy.executionTimeout",
            5_000,
            problems,
        ),
        ttl: read_millis(members.get("ttl"), "policy.ttl", 10_000, problems),
    }
}

fn read_millis(
    value: Option<&Value>,
    path: &'static str,
    least: u64,
    problems: &mut Vec<Problem>,
) -> Option<Duration> {
    let value = value.filter(|value| !value.is_null())?;
    match value.as_u64() {
        Some(millis) if (least..=7 * DAY_MS).contains(&millis) => Some(Duration::from_millis(millis)),
        _ => {
            let message =
                format!("expected whole milliseconds from {least} to {}, found {value}", 7 * DAY_MS);
            problems.push(Problem::new("range", path, message));
            None
        }
    }
}

/// Any http or https address is accepted, private ones too: the API is a tool of whoever runs this machine, and a
/// webhook on `localhost` is the usual case. Set a key before letting others submit jobs.
fn read_webhook(webhook: Option<&Value>, problems: &mut Vec<Problem>) -> Option<Url> {
    let text = match webhook? {
        Value::Null => return None,
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text,
        other => {
            let message = format!("\"webhook\" must be a string, found {}", name(other));
            problems.push(Problem::new("string_type", "webhook", message));
            return None;
        }
    };
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
        _ => {
            problems.push(Problem::new(
                "url",
                "webhook",
                "\"webhook\" must be an absolute http or https URL",
            ));
            None
        }
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

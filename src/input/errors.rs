//! Everything that is wrong with one request, each with the place, in words and as a stable code.
//!
//! Knows nothing of how the errors are found; [`super::wire`] and [`super::validate`] add to the list.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::job::{Failure, FailureKind};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputError {
    /// JSON path below `input`, such as `$.text_steps` or `$.product_position[1]`; `$` is the whole input.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
    /// Stable name for programs.
    pub code: ErrorCode,
}

/// Stable names of what can be wrong. They are part of the interface: rename none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Another JSON type than expected.
    WrongType,
    /// A number outside its range.
    OutOfRange,
    /// A size that is not a multiple of what the models need.
    NotAMultiple,
    /// A word that is none of the choices.
    UnknownChoice,
    /// A text above the cap.
    TooLong,
    /// A value that another one makes necessary.
    Missing,
    /// Two values that contradict each other.
    Conflict,
    /// A font name that is no plain relative path.
    UnsafePath,
    /// Text that is no base64.
    BadBase64,
    /// A file that is no PNG, JPEG or WebP.
    UnsupportedImage,
    /// An image that cannot be decoded: damaged or truncated.
    BadImage,
    /// An image above the cap on bytes or pixels.
    ImageTooLarge,
}

/// All errors of one request, in the order of the fields; never empty where it is an error value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputErrors(pub Vec<InputError>);

/// Errors spelled out in the summary; the rest is in the list.
const NAMED_IN_SUMMARY: usize = 3;

/// Characters of a sender's value that are quoted back.
const QUOTED_CHARS: usize = 60;

impl InputErrors {
    /// Adds one.
    pub fn add(&mut self, path: impl Into<String>, code: ErrorCode, message: impl Into<String>) {
        self.0.push(InputError { path: path.into(), message: message.into(), code });
    }
}

impl fmt::Display for InputErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the input has {count} error{}: ", if count == 1 { "" } else { "s" })?;
        for (index, error) in self.0.iter().take(NAMED_IN_SUMMARY).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", error.path, error.message)?;
        }
        match count.saturating_sub(NAMED_IN_SUMMARY) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for InputErrors {}

impl From<InputErrors> for Failure {
    fn from(errors: InputErrors) -> Self {
        Self {
            kind: FailureKind::InvalidInput,
            message: errors.to_string(),
            details: serde_json::to_value(&errors.0).unwrap_or(Value::Null),
        }
    }
}

/// A sender's value as it may be quoted in a message: one line, bounded.
pub fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{}\"", shortened(text)),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
    }
}

/// `text` on one line and at most [`QUOTED_CHARS`] long.
pub fn shortened(text: &str) -> String {
    let mut short: String =
        text.chars().take(QUOTED_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        short.push('…');
    }
    short
}

//! The kinds of value that a field can hold: how each is read strictly, described, and written into the JSON Schema.
//!
//! A kind knows its own range and default and nothing of other fields; [`super::fields`] makes the table from kinds.

mod choice;
mod flag;
mod number;
mod position;
mod text;

pub use choice::{Choice, nearest};
pub use flag::{Flag, FlagOrAuto};
pub use number::{ByModel, Integer, Number, Seed};
pub use position::Position;
pub use text::{Text, TextShape};

use serde_json::{Map, Value, json};

use super::errors::{ErrorCode, quoted};

/// Names and meaning of a field.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Name in the request.
    pub name: &'static str,
    /// A second name, kept for older clients.
    pub alias: Option<&'static str>,
    /// One or two sentences for the schema.
    pub doc: &'static str,
}

/// What is wrong with one value: where below the field (`""` or `[1]`), which kind of error, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Appended to the field's path.
    pub below: String,
    /// Stable name.
    pub code: ErrorCode,
    /// Expected and found.
    pub message: String,
}

impl Problem {
    fn new(code: ErrorCode, message: String) -> Self {
        Self { below: String::new(), code, message }
    }

    fn wrong_type(expected: &str, found: &Value) -> Self {
        Self::new(ErrorCode::WrongType, format!("expected {expected}, found {}", quoted(found)))
    }
}

/// A row of the table, whatever its kind.
pub trait Field: Sync {
    /// Names and meaning.
    fn head(&self) -> &Head;
    /// JSON Schema of the value, without description; `max_chars` is the cap on texts.
    fn schema(&self, max_chars: usize) -> Map<String, Value>;
}

/// A row whose value has a Rust type.
pub trait Typed: Field {
    /// What a good value becomes.
    type Value;
    /// Reads a value that is not `null`.
    ///
    /// # Errors
    /// [`Problem`]: expected and found.
    fn read(&self, value: &Value, max_chars: usize) -> Result<Self::Value, Problem>;
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A picture in base64. [`super::images`] opens it; here it is only a string.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// Names and meaning.
    pub head: Head,
}

impl Field for Picture {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        object(json!({ "type": ["string", "null"], "contentEncoding": "base64" }))
    }
}

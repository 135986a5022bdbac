//! `true`, `false`, and where it is allowed `"auto"`.

use serde_json::{Map, Value, json};

use super::{Field, Head, Problem, Typed, object};
use crate::input::errors::{ErrorCode, quoted};
use crate::input::plan::AutoUnload;

/// `true` or `false`.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Names and meaning.
    pub head: Head,
    /// Without a value; `None` is decided by another field.
    pub default: Option<bool>,
}

impl Field for Flag {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        let mut schema = object(json!({ "type": ["boolean", "null"] }));
        if let Some(default) = self.default {
            schema.insert("default".to_owned(), default.into());
        }
        schema
    }
}

impl Typed for Flag {
    type Value = bool;

    fn read(&self, value: &Value, _: usize) -> Result<bool, Problem> {
        value.as_bool().ok_or_else(|| match value {
            Value::String(text) if text == "true" || text == "false" => Problem::new(
                ErrorCode::WrongType,
                format!("expected true or false, found {}: send it without quotes", quoted(value)),
            ),
            _ => Problem::wrong_type("true or false", value),
        })
    }
}

/// `true`, `false` or `"auto"`.
#[derive(Debug, Clone, Copy)]
pub struct FlagOrAuto {
    /// Names and meaning.
    pub head: Head,
}

impl Field for FlagOrAuto {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        object(json!({ "enum": [true, false, "auto", null] }))
    }
}

impl Typed for FlagOrAuto {
    type Value = AutoUnload;

    fn read(&self, value: &Value, _: usize) -> Result<Self::Value, Problem> {
        match value {
            Value::Bool(true) => Ok(AutoUnload::Yes),
            Value::Bool(false) => Ok(AutoUnload::No),
            Value::String(text) if text == "auto" => Ok(AutoUnload::Auto),
            _ => Err(Problem::wrong_type("true, false or \"auto\"", value)),
        }
    }
}

//! A place in the picture: a word or a pair of pixels.

use serde_json::{Map, Value, json};

use super::choice::unknown_choice;
use super::number::number_expected;
use super::{Field, Head, Problem, Typed, object};
use crate::input::errors::{ErrorCode, quoted};
use crate::input::plan::ProductPosition;

/// A place: a word or a pair of pixels.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Names and meaning.
    pub head: Head,
    /// Words and what each means.
    pub places: &'static [(&'static str, ProductPosition)],
    /// Greatest distance of a coordinate from 0.
    pub reach: i32,
}

impl Field for Position {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        let words: Vec<_> = self.places.iter().map(|(word, _)| *word).collect();
        let coordinate = json!({ "type": "integer", "minimum": -self.reach, "maximum": self.reach });
        object(json!({
            "anyOf": [
                { "enum": words },
                { "type": "array", "items": coordinate, "minItems": 2, "maxItems": 2 },
                { "type": "null" }
            ],
            "default": words.first()
        }))
    }
}

impl Typed for Position {
    type Value = ProductPosition;

    fn read(&self, value: &Value, _: usize) -> Result<ProductPosition, Problem> {
        const EXPECTED: &str = "a place such as \"center\" or \"top-left\", or [x, y] in pixels";
        match value {
            Value::String(text) => match self.places.iter().find(|(word, _)| word == text) {
                Some((_, place)) => Ok(*place),
                None => Err(unknown_choice(EXPECTED, text, self.places.iter().map(|(word, _)| *word))),
            },
            Value::Array(pair) => match pair.as_slice() {
                [x, y] => Ok(ProductPosition::At { x: self.coordinate(x, 0)?, y: self.coordinate(y, 1)? }),
                _ => Err(Problem::wrong_type(EXPECTED, value)),
            },
            _ => Err(Problem::wrong_type(EXPECTED, value)),
        }
    }
}

impl Position {
    fn coordinate(&self, value: &Value, index: usize) -> Result<i32, Problem> {
        let reach = f64::from(self.reach);
        let expected = format!("an integer from {} to {}", -self.reach, self.reach);
        let problem = match value.as_f64() {
            Some(number) if number.fract() != 0.0 => Problem::wrong_type(&expected, value),
            Some(number) if number.abs() <= reach => return Ok(number as i32),
            Some(_) => {
                Problem::new(ErrorCode::OutOfRange, format!("expected {expected}, found {}", quoted(value)))
            }
            None => number_expected(&expected, value),
        };
        Err(Problem { below: format!("[{index}]"), ..problem })
    }
}

//! Integers, real numbers and the seed: integral floats are integers, numbers in quotes are not numbers.

use serde_json::{Map, Value, json};

use super::{Field, Head, Problem, Typed, object};
use crate::input::errors::{ErrorCode, quoted};

/// The error for a number that arrived as a string: the commonest slip of clients.
pub(super) fn number_expected(expected: &str, value: &Value) -> Problem {
    match value {
        Value::String(text) if text.trim().parse::<f64>().is_ok() => Problem::new(
            ErrorCode::WrongType,
            format!("expected {expected}, found {}: send the number without quotes", quoted(value)),
        ),
        _ => Problem::wrong_type(expected, value),
    }
}

/// A default that may differ between the two background models.
#[derive(Debug, Clone, Copy)]
pub struct ByModel<T> {
    /// With `bg_model` = `flux`, and in the schema.
    pub flux: T,
    /// With `bg_model` = `sdxl`.
    pub sdxl: T,
}

/// An integer in a range.
#[derive(Debug, Clone, Copy)]
pub struct Integer {
    /// Names and meaning.
    pub head: Head,
    /// Least value.
    pub min: u32,
    /// Greatest value.
    pub max: u32,
    /// The value must be a multiple of this.
    pub step: u32,
    /// Without a value.
    pub default: ByModel<u32>,
}

impl Field for Integer {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        let mut schema = object(json!({
            "type": ["integer", "null"], "minimum": self.min, "maximum": self.max, "default": self.default.flux
        }));
        if self.step > 1 {
            schema.insert("multipleOf".to_owned(), self.step.into());
        }
        schema
    }
}

impl Typed for Integer {
    type Value = u32;

    fn read(&self, value: &Value, _: usize) -> Result<u32, Problem> {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let expected = if self.step > 1 {
            format!("a multiple of {} from {} to {}", self.step, self.min, self.max)
        } else {
            format!("an integer from {} to {}", self.min, self.max)
        };
        // Every u32 is exact in f64; 25.0 is how some JSON writers spell 25.
        let Some(number) = value.as_f64() else { return Err(number_expected(&expected, value)) };
        if number.fract() != 0.0 {
            return Err(Problem::wrong_type(&expected, value));
        }
        if number < min || number > max {
            return Err(Problem::new(
                ErrorCode::OutOfRange,
                format!("expected {expected}, found {}", quoted(value)),
            ));
        }
        let number = number as u32;
        if !number.is_multiple_of(self.step) {
            let below = number / self.step * self.step;
            let message = format!(
                "expected {expected}, found {number}; the nearest are {below} and {}",
                below + self.step
            );
            return Err(Problem::new(ErrorCode::NotAMultiple, message));
        }
        Ok(number)
    }
}

/// A real number in a range.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// Names and meaning.
    pub head: Head,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Without a value.
    pub default: ByModel<f64>,
}

impl Field for Number {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        object(json!({
            "type": ["number", "null"], "minimum": self.min, "maximum": self.max, "default": self.default.flux
        }))
    }
}

impl Typed for Number {
    type Value = f64;

    fn read(&self, value: &Value, _: usize) -> Result<f64, Problem> {
        let expected = format!("a number from {} to {}", self.min, self.max);
        let Some(number) = value.as_f64() else { return Err(number_expected(&expected, value)) };
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(Problem::new(ErrorCode::OutOfRange, format!("expected {expected}, found {}", quoted(value))))
        }
    }
}

/// The seed: the whole of u64.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Names and meaning.
    pub head: Head,
}

/// Above it, a number written with a fraction or an exponent no longer names one integer.
const EXACT_FLOATS: f64 = 9_007_199_254_740_992.0;

impl Field for Seed {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        object(json!({ "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX }))
    }
}

impl Typed for Seed {
    type Value = u64;

    fn read(&self, value: &Value, _: usize) -> Result<u64, Problem> {
        let expected = format!("an integer from 0 to {}", u64::MAX);
        if let Some(seed) = value.as_u64() {
            return Ok(seed);
        }
        let Some(number) = value.as_f64() else { return Err(number_expected(&expected, value)) };
        if number < 0.0 {
            let message =
                format!("expected {expected}, found {}; leave it out for a random seed", quoted(value));
            Err(Problem::new(ErrorCode::OutOfRange, message))
        } else if number.fract() != 0.0 {
            Err(Problem::wrong_type(&expected, value))
        } else if number > EXACT_FLOATS {
            let message = format!(
                "expected {expected}, found {}; above 2^53 write it as plain digits without fraction or exponent",
                quoted(value)
            );
            Err(Problem::new(ErrorCode::OutOfRange, message))
        } else {
            Ok(number as u64)
        }
    }
}

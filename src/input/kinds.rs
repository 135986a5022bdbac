//! The kinds of value that a field can hold: how each is read strictly, described, and written into the JSON Schema.
//!
//! A kind knows its own range and default and nothing of other fields; [`super::fields`] makes the table from kinds.

use serde_json::{Map, Value, json};

use super::errors::{ErrorCode, quoted, shortened};
use super::plan::ProductPosition;

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

/// The error for a number that arrived as a string: the commonest slip of clients.
fn number_expected(expected: &str, value: &Value) -> Problem {
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

/// What a text is, beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextShape {
    /// Anything.
    Prompt,
    /// Drawn as it stands: no control characters but line breaks and tabs.
    Phrase,
    /// A relative path below the font folders.
    FontName,
}

/// A text.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    /// Names and meaning.
    pub head: Head,
    /// What it is.
    pub shape: TextShape,
    /// Without a value.
    pub default: Option<&'static str>,
}

impl Field for Text {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, max_chars: usize) -> Map<String, Value> {
        let mut schema = object(json!({ "type": ["string", "null"], "maxLength": max_chars }));
        if let Some(default) = self.default {
            schema.insert("default".to_owned(), default.into());
        }
        schema
    }
}

impl Typed for Text {
    type Value = String;

    fn read(&self, value: &Value, max_chars: usize) -> Result<String, Problem> {
        let Value::String(text) = value else { return Err(Problem::wrong_type("a string", value)) };
        // A text of n bytes has at most n characters, so most are never counted.
        if text.len() > max_chars {
            let chars = text.chars().count();
            if chars > max_chars {
                let message = format!("expected at most {max_chars} characters, found {chars}");
                return Err(Problem::new(ErrorCode::TooLong, message));
            }
        }
        match self.shape {
            TextShape::Prompt => {}
            TextShape::Phrase => {
                if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
                    let message =
                        format!("expected printable text, found the control character U+{:04X}", c as u32);
                    return Err(Problem::new(ErrorCode::UnknownChoice, message));
                }
            }
            TextShape::FontName => check_font_name(text)?,
        }
        Ok(text.clone())
    }
}

/// Refuses whatever could lead out of the font folders, on any system: the name may be written by a stranger.
fn check_font_name(name: &str) -> Result<(), Problem> {
    let reason = if name.trim().is_empty() {
        Some("it is empty; leave it out for the first font found")
    } else if name.chars().any(char::is_control) {
        Some("it contains a control character")
    } else if name.contains('\\') {
        Some("it contains a backslash; separate folders with /")
    } else if name.starts_with('/') || name.starts_with('~') {
        Some("it is not relative")
    } else if name.contains(':') {
        Some("it contains a colon, as drive letters and URLs do")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("it contains an empty, `.` or `..` component")
    } else {
        None
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(Problem::new(
            ErrorCode::UnsafePath,
            format!(
                "expected a font file below the font folders, such as \"NotoSansKR-Bold.otf\", found \"{}\": {reason}",
                shortened(name)
            ),
        )),
    }
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub struct Choice<T: 'static> {
    /// Names and meaning.
    pub head: Head,
    /// Words and what each means; the first is the default.
    pub choices: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq> Choice<T> {
    /// The word for a value.
    pub fn word(&self, value: T) -> &'static str {
        self.choices.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| word)
    }
}

impl<T: Sync> Field for Choice<T> {
    fn head(&self) -> &Head {
        &self.head
    }

    fn schema(&self, _: usize) -> Map<String, Value> {
        let mut words: Vec<Value> = self.choices.iter().map(|(word, _)| (*word).into()).collect();
        let default = words.first().cloned().unwrap_or(Value::Null);
        words.push(Value::Null);
        object(json!({ "enum": words, "default": default }))
    }
}

impl<T: Copy + Sync> Typed for Choice<T> {
    type Value = T;

    fn read(&self, value: &Value, _: usize) -> Result<T, Problem> {
        let words = || self.choices.iter().map(|(word, _)| *word);
        let expected = format!("one of {}", words().collect::<Vec<_>>().join(", "));
        let Value::String(text) = value else { return Err(Problem::wrong_type(&expected, value)) };
        match self.choices.iter().find(|(word, _)| word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(unknown_choice(&expected, text, words())),
        }
    }
}

fn unknown_choice<'a>(expected: &str, found: &str, words: impl Iterator<Item = &'a str>) -> Problem {
    let hint = nearest(found, words).map(|word| format!("; did you mean \"{word}\"?")).unwrap_or_default();
    Problem::new(
        ErrorCode::UnknownChoice,
        format!("expected {expected}, found \"{}\"{hint}", shortened(found)),
    )
}

/// The candidate that `text` probably meant, if one is close.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name by far: not a slip, and the measure below is quadratic.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (strsim::jaro_winkler(&text, &candidate.replace('-', "_")), candidate))
        .filter(|(likeness, _)| *likeness >= 0.84)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

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
    type Value = super::plan::AutoUnload;

    fn read(&self, value: &Value, _: usize) -> Result<Self::Value, Problem> {
        use super::plan::AutoUnload;
        match value {
            Value::Bool(true) => Ok(AutoUnload::Yes),
            Value::Bool(false) => Ok(AutoUnload::No),
            Value::String(text) if text == "auto" => Ok(AutoUnload::Auto),
            _ => Err(Problem::wrong_type("true, false or \"auto\"", value)),
        }
    }
}

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

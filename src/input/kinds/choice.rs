//! One of a few words, and what a misspelt one probably meant.

use serde_json::{Map, Value, json};

use super::{Field, Head, Problem, Typed, object};
use crate::input::errors::{ErrorCode, shortened};

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

pub(super) fn unknown_choice<'a>(
    expected: &str,
    found: &str,
    words: impl Iterator<Item = &'a str>,
) -> Problem {
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

//! Parsing of single values, with problems collected instead of returned.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::ConfigErrors;

/// Collects problems while a configuration is read.
#[derive(Default)]
pub(super) struct Reader {
    problems: Vec<String>,
}

impl Reader {
    /// The raw strings of one section. All fields of `T` are `Option<String>`, so only a duplicate variable can fail.
    pub(super) fn section<T: DeserializeOwned + Default>(
        &mut self,
        prefix: &str,
        vars: &[(String, String)],
    ) -> T {
        envy::prefixed(prefix).from_iter(vars.iter().cloned()).unwrap_or_else(|error| {
            self.problems.push(format!("{prefix}*: {error}"));
            T::default()
        })
    }

    /// `raw` as a number within `range`, or `default`.
    pub(super) fn number<T>(
        &mut self,
        name: &str,
        raw: Option<&String>,
        range: RangeInclusive<T>,
        default: T,
    ) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(raw) = raw else { return default };
        match raw.trim().parse::<T>() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                self.problem(name, raw, &format!("a number from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    /// `raw` seconds (fractions allowed) within `range`, or `default`.
    pub(super) fn seconds(
        &mut self,
        name: &str,
        raw: Option<&String>,
        range: RangeInclusive<f64>,
        default: f64,
    ) -> Duration {
        Duration::from_secs_f64(self.number(name, raw, range, default))
    }

    /// `true`, `1`, `yes`, `on` or their opposites, in any case.
    pub(super) fn flag(&mut self, name: &str, raw: Option<&String>, default: bool) -> bool {
        let Some(raw) = raw else { return default };
        match raw.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.problem(name, raw, "true or false");
                default
            }
        }
    }

    /// `raw` through `parse`, or `default`; `expected` ends the sentence "expected …".
    pub(super) fn with<T>(
        &mut self,
        name: &str,
        raw: Option<&String>,
        expected: &str,
        default: T,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let Some(raw) = raw else { return default };
        parse(raw.trim()).unwrap_or_else(|| {
            self.problem(name, raw, expected);
            default
        })
    }

    /// Notes a problem that is not about one value.
    pub(super) fn note(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn problem(&mut self, name: &str, raw: &str, expected: &str) {
        // Values of variables can be secrets or huge: quote only a beginning.
        let shown: String = raw.chars().take(40).collect();
        self.problems.push(format!("{name}={shown}: expected {expected}"));
    }

    /// `config`, if nothing was wrong.
    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigErrors(self.problems)) }
    }
}

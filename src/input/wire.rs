//! What was sent: the raw object, field by field, under either name, with `null` as absent.
//!
//! Collects errors, remarks and the echo of used values; draws no conclusions ([`super::validate`] does).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::errors::{ErrorCode, InputErrors, quoted, shortened};
use super::fields;
use super::kinds::{Field, Typed, nearest};

/// Remarks on unknown fields beyond this many are counted, not written out.
const UNKNOWN_NAMED: usize = 20;

/// The request's object while it is read.
pub struct Wire<'a> {
    object: &'a Map<String, Value>,
    max_chars: usize,
    given: HashSet<&'static str>,
    /// All errors so far.
    pub errors: InputErrors,
    /// Remarks for the customer.
    pub warnings: Vec<String>,
    /// Values that are used, by field.
    pub parameters: Map<String, Value>,
}

/// A value and the name under which it was sent.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// Name or alias.
    pub name: &'static str,
    /// Not null.
    pub value: &'a Value,
}

impl Sent<'_> {
    /// JSON path of the value.
    pub fn path(&self) -> String {
        format!("$.{}", self.name)
    }
}

impl<'a> Wire<'a> {
    /// Starts to read `raw`; texts above `max_chars` characters are errors.
    ///
    /// # Errors
    /// If `raw` is no object.
    pub fn new(raw: &'a Value, max_chars: usize) -> Result<Self, InputErrors> {
        let Value::Object(object) = raw else {
            let mut errors = InputErrors::default();
            errors.add(
                "$",
                ErrorCode::WrongType,
                format!("expected an object of parameters, found {}", quoted(raw)),
            );
            return Err(errors);
        };
        Ok(Self {
            object,
            max_chars,
            given: HashSet::new(),
            errors: InputErrors::default(),
            warnings: Vec::new(),
            parameters: Map::new(),
        })
    }

    /// The raw value of a field under either name; `null` is absent. Both names at once are an error if they differ.
    pub fn sent(&mut self, field: &dyn Field) -> Option<Sent<'a>> {
        let head = field.head();
        let under = |name: &'static str| {
            self.object.get(name).filter(|v| !v.is_null()).map(|value| Sent { name, value })
        };
        let (by_name, by_alias) = (under(head.name), head.alias.and_then(under));
        if let (Some(name), Some(alias)) = (&by_name, &by_alias) {
            if name.value == alias.value {
                self.warnings.push(format!("{} and its alias {} were both given", name.name, alias.name));
            } else {
                self.errors.add(
                    alias.path(),
                    ErrorCode::Conflict,
                    format!(
                        "{} is another name of {}, and both were given with different values: send one",
                        alias.name, name.name
                    ),
                );
            }
        }
        let sent = by_name.or(by_alias);
        if sent.is_some() {
            self.given.insert(head.name);
        }
        sent
    }

    /// The checked value of a field; `None` if it is absent or wrong (the error is then on the list).
    pub fn get<F: Typed>(&mut self, field: &F) -> Option<F::Value> {
        let sent = self.sent(field)?;
        match field.read(sent.value, self.max_chars) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.errors.add(sent.path() + &problem.below, problem.code, problem.message);
                None
            }
        }
    }

    /// Notes the value that is used for a field.
    pub fn echo(&mut self, field: &dyn Field, value: impl Into<Value>) {
        self.parameters.insert(field.head().name.to_owned(), value.into());
    }

    /// Whether a field was sent under either name, once it has been read.
    pub fn was_given(&self, field: &dyn Field) -> bool {
        self.given.contains(field.head().name)
    }

    /// Remarks on every name that is in the object and not in the table.
    pub fn note_unknown(&mut self) {
        let known = || fields::ALL.iter().flat_map(|f| [Some(f.head().name), f.head().alias]).flatten();
        let known_set: HashSet<&str> = known().collect();
        let mut unknown = self.object.keys().filter(|name| !known_set.contains(name.as_str()));
        for name in unknown.by_ref().take(UNKNOWN_NAMED) {
            let hint = nearest(name, known()).map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
            self.warnings.push(format!("unknown field \"{}\" is ignored{hint}", shortened(name)));
        }
        match unknown.count() {
            0 => {}
            more => self.warnings.push(format!("{more} more unknown fields are ignored")),
        }
    }
}

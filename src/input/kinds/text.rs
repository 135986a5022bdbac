//! Texts: prompts, the phrase, and the font's name, which must not lead out of the font folders.

use serde_json::{Map, Value, json};

use super::{Field, Head, Problem, Typed, object};
use crate::input::errors::{ErrorCode, shortened};

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

//! The two small JSON files next to a vocabulary that say how to pad and how long a prompt may be.

use std::path::Path;

use serde_json::Value;

use super::TokenizerError;

/// What is used of `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) pad_token: Option<String>,
    pub(super) max_length: Option<usize>,
}

impl Settings {
    /// Both files are optional; the first names a token wins.
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let specials = json(&folder.join("special_tokens_map.json"))?;
        Ok(Self {
            pad_token: token(&config, "pad_token").or_else(|| token(&specials, "pad_token")),
            // transformers writes 1e30 for "no limit".
            max_length: config
                .get("model_max_length")
                .and_then(Value::as_u64)
                .filter(|&length| length < 1 << 20)
                .map(|length| length as usize),
        })
    }
}

fn json(path: &Path) -> Result<Value, TokenizerError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| TokenizerError::Malformed { path: path.to_owned(), reason: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(TokenizerError::Read {
            path: path.to_owned(),
            source,
            layout: "tokenizer settings must be readable",
        }),
    }
}

/// A token is a string, or an object with its text in `content`.
fn token(settings: &Value, name: &str) -> Option<String> {
    let value = settings.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

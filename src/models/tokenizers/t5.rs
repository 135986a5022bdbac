//! T5's tokenizer, from the checkpoint's `tokenizer.json` (Unigram with its normaliser's table and metaspace).

use std::path::Path;

use tokenizers::Tokenizer;

use super::settings::Settings;
use super::{TokenizerError, Tokens, fit};

const END: &str = "</s>";
const PAD: &str = "<pad>";

/// The tokenizer.
#[derive(Debug, Clone)]
pub struct T5 {
    tokenizer: Tokenizer,
    end: u32,
    pad: u32,
}

impl T5 {
    /// Reads a `tokenizer_2` folder.
    ///
    /// # Errors
    /// A missing or malformed `tokenizer.json`; a folder with `spiece.model` only; a vocabulary without the special tokens.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| {
            let missing = source.kind() == std::io::ErrorKind::NotFound;
            if missing && folder.join("spiece.model").exists() {
                return TokenizerError::SentencePieceOnly { folder: folder.to_owned() };
            }
            TokenizerError::Read {
                path: path.clone(),
                source,
                layout: "T5 tokenizer folder holds tokenizer.json",
            }
        })?;
        let malformed = |reason: String| TokenizerError::Malformed { path: path.clone(), reason };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| malformed(error.to_string()))?;
        // Some files carry the lengths of whoever saved them.
        tokenizer.with_truncation(None).map_err(|error| malformed(error.to_string()))?;
        tokenizer.with_padding(None);
        let settings = Settings::read(folder)?;
        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| malformed(format!("has no token `{token}`")))
        };
        let end = id(END)?;
        let pad = id(settings.pad_token.as_deref().unwrap_or(PAD))?;
        Ok(Self { tokenizer, end, pad })
    }

    /// The ids of `text` and the end token, cut or padded to `length` (FLUX dev: 512, schnell: 256).
    ///
    /// # Errors
    /// A length of 0; what the library refuses.
    pub fn encode(&self, text: &str, length: usize) -> Result<Tokens, TokenizerError> {
        if length == 0 {
            return Err(TokenizerError::Length { found: 0, least: 1 });
        }
        let encoding =
            self.tokenizer.encode(text, true).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(fit(encoding.get_ids().to_vec(), self.end, self.pad, length))
    }
}

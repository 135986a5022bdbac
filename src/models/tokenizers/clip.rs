//! CLIP's tokenizer. Checkpoints ship `vocab.json` and `merges.txt` only, so its pipeline is put together here: NFC,
//! white space to single blanks, lower case, split into words, bytes, BPE with `</w>` at a word's end.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::settings::Settings;
use super::{TokenizerError, Tokens, fit};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Words: the special tokens, English contractions, letters, one digit, anything else without blanks.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const LAYOUT: &str = "CLIP tokenizer folder holds vocab.json and merges.txt";
/// CLIP's positions.
const LENGTH: usize = 77;

/// The tokenizer, with the folder's own padding: CLIP-L pads with its end token, SDXL's second encoder with `!`.
#[derive(Debug, Clone)]
pub struct Clip {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: usize,
}

impl Clip {
    /// Reads a `tokenizer` folder.
    ///
    /// # Errors
    /// Missing or malformed files; a vocabulary without the special tokens.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        for path in [&vocabulary, &merges] {
            std::fs::metadata(path).map_err(|source| TokenizerError::Read {
                path: path.clone(),
                source,
                layout: LAYOUT,
            })?;
        }
        let malformed = |reason: String| TokenizerError::Malformed { path: vocabulary.clone(), reason };
        let bpe = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy())
            .unk_token(END.to_owned())
            .end_of_word_suffix("</w>".to_owned())
            .build()
            .map_err(|error| malformed(format!("not a BPE vocabulary with its merges.txt: {error}")))?;
        let mut tokenizer = Tokenizer::new(bpe);
        let blanks =
            Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ");
        let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true);
        let (Ok(blanks), Ok(words)) = (blanks, words) else {
            return Err(malformed("the word pattern does not compile".into()));
        };
        tokenizer
            .with_normalizer(Some(Normalizers::new(vec![NFC.into(), blanks.into(), Lowercase.into()])))
            .map_err(|error| malformed(error.to_string()))?;
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            words.into(),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
        tokenizer
            .add_special_tokens([AddedToken::from(START, true), AddedToken::from(END, true)])
            .map_err(|error| malformed(error.to_string()))?;

        let settings = Settings::read(folder)?;
        let id = |token: &str| {
            tokenizer
                .get_vocab(false)
                .get(token)
                .copied()
                .ok_or_else(|| malformed(format!("has no token `{token}`")))
        };
        let (start, end) = (id(START)?, id(END)?);
        let pad = settings.pad_token.as_deref().map_or(Ok(end), id)?;
        let max_length = settings.max_length.unwrap_or(LENGTH);
        if max_length < 2 {
            return Err(TokenizerError::Length { found: max_length, least: 2 });
        }
        Ok(Self { tokenizer, start, end, pad, max_length })
    }

    /// The ids of `text` between start and end token, cut or padded to the tokenizer's length (77).
    ///
    /// # Errors
    /// What the library refuses.
    pub fn encode(&self, text: &str) -> Result<Tokens, TokenizerError> {
        let words =
            self.tokenizer.encode(text, false).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        let mut ids = Vec::with_capacity(words.len() + 2);
        ids.push(self.start);
        ids.extend_from_slice(words.get_ids());
        ids.push(self.end);
        Ok(fit(ids, self.end, self.pad, self.max_length))
    }
}

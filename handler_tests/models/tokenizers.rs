//! The two tokenizers on tiny vocabularies of our own, against transformers' ids.
//!
//! With the published vocabularies (not in this repository) "A painting of a squirrel eating a burger" gave CLIP's
//! 49406 320 3086 539 320 14004 4371 320 6548 49407 and T5's 71 3924 13 3 9 26364 3182 3 9 3 9079 1; 314 other
//! texts (random Unicode, specials, long ones) gave transformers 5.23's ids too.

use std::path::Path;

use marquee::models::tokenizers::{Clip, T5, TokenizerError};
use serde::Deserialize;

use super::golden::folder;

#[derive(Deserialize)]
struct Row {
    text: String,
    clip: Vec<u32>,
    t5: Vec<u32>,
}

fn rows() -> Vec<Row> {
    serde_json::from_slice(&std::fs::read(folder().join("tokenizers/ids.json")).unwrap()).unwrap()
}

#[test]
fn clip_gives_transformers_ids() {
    let tokenizer = Clip::from_folder(&folder().join("tokenizers/clip")).unwrap();
    for row in rows() {
        let tokens = tokenizer.encode(&row.text).unwrap();
        assert_eq!(tokens.ids, row.clip, "{}", row.text);
        assert_eq!(tokens.ids.len(), 77);
    }
}

#[test]
fn t5_gives_transformers_ids() {
    let tokenizer = T5::from_folder(&folder().join("tokenizers/t5")).unwrap();
    for row in rows() {
        assert_eq!(tokenizer.encode(&row.text, 48).unwrap().ids, row.t5, "{}", row.text);
    }
}

#[test]
fn a_long_prompt_keeps_its_end_and_says_what_it_lost() {
    let folder = folder().join("tokenizers");
    let words = "water ".repeat(100);
    let clip = Clip::from_folder(&folder.join("clip")).unwrap().encode(&words).unwrap();
    let short = Clip::from_folder(&folder.join("clip")).unwrap().encode("water").unwrap();
    assert_eq!(clip.ids.last(), short.ids.get(2), "the end token closes a cut prompt");
    // One id a word, and the two ends: 102, of which 77 fit.
    assert_eq!((clip.dropped, short.dropped), (25, 0));
    let t5 = T5::from_folder(&folder.join("t5")).unwrap();
    let (cut, whole) = (t5.encode(&words, 8).unwrap(), t5.encode(&words, 512).unwrap());
    assert_eq!(cut.ids[..7], whole.ids[..7]);
    assert_eq!(cut.ids[7], 1);
    assert!(cut.dropped > 0 && whole.dropped == 0);
    assert!(matches!(t5.encode("water", 0), Err(TokenizerError::Length { .. })));
}

#[test]
fn padding_is_the_folders_own() {
    let copy = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(folder().join("tokenizers/clip").join(name), copy.path().join(name)).unwrap();
    }
    let pad = |settings: &str| {
        std::fs::write(copy.path().join("tokenizer_config.json"), settings).unwrap();
        Clip::from_folder(copy.path()).unwrap().encode("water").unwrap().ids.last().copied()
    };
    // As SDXL's second tokenizer: `!` is the first of the bytes.
    assert_eq!(pad(r#"{"pad_token": "!"}"#), Some(0));
    assert_eq!(pad(r#"{"pad_token": {"content": "!", "lstrip": false}}"#), Some(0));
    assert_eq!(pad(r"{}"), Some(823));
}

#[test]
fn folders_that_cannot_work_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = |result: Result<T5, TokenizerError>| result.unwrap_err().to_string();
    let clip = Clip::from_folder(empty.path()).unwrap_err().to_string();
    assert!(clip.contains("vocab.json") && clip.contains("merges.txt"), "{clip}");
    assert!(error(T5::from_folder(empty.path())).contains("tokenizer.json"));

    std::fs::write(empty.path().join("spiece.model"), b"").unwrap();
    let only = T5::from_folder(empty.path()).unwrap_err();
    assert!(matches!(only, TokenizerError::SentencePieceOnly { .. }), "{only}");

    std::fs::write(empty.path().join("tokenizer.json"), b"{").unwrap();
    assert!(error(T5::from_folder(empty.path())).contains("tokenizer.json"));
    specials_missing(empty.path());
}

fn specials_missing(folder: &Path) {
    std::fs::write(folder.join("vocab.json"), r#"{"a": 0}"#).unwrap();
    std::fs::write(folder.join("merges.txt"), "#version: 0.2\n").unwrap();
    let error = Clip::from_folder(folder).unwrap_err().to_string();
    assert!(error.contains("<|startoftext|>") || error.contains("<|endoftext|>"), "{error}");
}

//! Two small vocabularies in the published file formats: every text has ids, most of them single letters.

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Merges of CLIP's pairs, in order; each part is a letter or an earlier result.
const MERGES: [(&str, &str); 14] = [
    ("t", "h"),
    ("th", "e</w>"),
    ("i", "n"),
    ("in", "g</w>"),
    ("a", "n"),
    ("an", "d</w>"),
    ("o", "n</w>"),
    ("o", "f</w>"),
    ("e", "r"),
    ("er", "s</w>"),
    ("o", "u"),
    ("l", "i"),
    ("g", "h"),
    ("gh", "t</w>"),
];

/// T5's pieces beside single letters; `▁` begins a word.
const PIECES: [&str; 16] = [
    "▁a", "▁the", "▁of", "▁on", "▁in", "▁and", "▁with", "▁light", "ing", "er", "th", "ou", "an", "s",
    "▁water", "▁table",
];

/// `vocab.json` and `merges.txt`: 256 bytes, the same at a word's end, the merges, and the two specials last.
pub(super) fn clip() -> (Map<String, Value>, String) {
    let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let tokens = letters
        .iter()
        .map(ToString::to_string)
        .chain(letters.iter().map(|letter| format!("{letter}</w>")))
        .chain(MERGES.iter().map(|(left, right)| format!("{left}{right}")))
        .chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocabulary = tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    let lines: Vec<String> = MERGES.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
    (vocabulary, format!("#version: 0.2\n{}", lines.concat()))
}

/// `tokenizer.json`, and the number of its pieces.
pub(super) fn t5() -> (Value, usize) {
    // Longer pieces score better, so that they are preferred to their letters.
    let letters = (' '..='~').filter(|letter| *letter != ' ').map(|letter| (letter.to_string(), -8.0));
    let pieces = PIECES.iter().map(|piece| ((*piece).to_owned(), -4.0));
    let vocabulary: Vec<(String, f64)> = [
        ("<pad>".to_owned(), 0.0),
        ("</s>".to_owned(), 0.0),
        ("<unk>".to_owned(), 0.0),
        ("▁".to_owned(), -6.0),
    ]
    .into_iter()
    .chain(pieces)
    .chain(letters.filter(|(letter, _)| letter != "s"))
    .collect();
    let size = vocabulary.len();
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let end = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "</s>"), special(2, "<unk>")],
        "normalizer": { "type": "NFKC" },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), end],
            "pair": [sequence("A"), end, sequence("B"), end],
            "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } },
        },
        "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": false },
    });
    (tokenizer, size)
}

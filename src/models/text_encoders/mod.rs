//! Text encoders: token ids in, embeddings out. Tokenising is `tokenizers`' business, and which embedding goes where the
//! pipelines'.
//!
//! Both are our own rather than candle-transformers', whose CLIP knows one activation only and has neither the pooled
//! projection nor the two rules for the end token, and whose T5 takes its softmax in the compute dtype and lets f16
//! overflow; transformers does neither.

pub mod clip;
pub mod t5;

use candle_core::Result;

/// The prompts' length, of ids that are all in the vocabulary: one beyond the table is an error on a CPU and somebody
/// else's memory on a GPU.
fn checked_length(what: &str, ids: &[Vec<u32>], vocabulary: usize) -> Result<usize> {
    let length = ids.first().map_or(0, Vec::len);
    if length == 0 {
        candle_core::bail!("{what}: no token ids");
    }
    for row in ids {
        if row.len() != length {
            candle_core::bail!(
                "{what}: prompts of one batch differ in length: {length} and {} ids",
                row.len()
            );
        }
        if let Some(id) = row.iter().find(|&&id| id as usize >= vocabulary) {
            candle_core::bail!(
                "{what}: token id {id} is beyond the encoder's vocabulary of {vocabulary}; tokenizer and encoder are \
                 not of one checkpoint"
            );
        }
    }
    Ok(length)
}

//! llama.cpp's names for T5 encoders (GGUF) to transformers'.

use std::collections::HashMap;
use std::sync::Arc;

use crate::models::weights::{Recipe, Renamed, Source};

/// Whether `source` holds a T5 encoder under llama.cpp's names.
pub(super) fn is_t5(source: &dyn Source) -> bool {
    source.meta("enc.blk.0.attn_q.weight").is_some()
}

/// `source` under transformers' names; unknown keys keep theirs.
pub(super) fn renamed(source: Arc<dyn Source>) -> Renamed {
    let recipes: HashMap<String, Recipe> =
        source.keys().into_iter().map(|key| (name(&key), Recipe::whole(key))).collect();
    Renamed::new(source, recipes)
}

fn name(key: &str) -> String {
    match key {
        "token_embd.weight" => return "shared.weight".to_owned(),
        "enc.output_norm.weight" => return "encoder.final_layer_norm.weight".to_owned(),
        _ => {}
    }
    let inner = key.strip_prefix("enc.blk.").and_then(|rest| rest.split_once('.'));
    let Some((block, inner)) = inner else { return key.to_owned() };
    let inner = match inner.strip_suffix(".weight") {
        Some("attn_q") => "layer.0.SelfAttention.q",
        Some("attn_k") => "layer.0.SelfAttention.k",
        Some("attn_v") => "layer.0.SelfAttention.v",
        Some("attn_o") => "layer.0.SelfAttention.o",
        Some("attn_rel_b") => "layer.0.SelfAttention.relative_attention_bias",
        Some("attn_norm") => "layer.0.layer_norm",
        Some("ffn_gate") => "layer.1.DenseReluDense.wi_0",
        Some("ffn_up") => "layer.1.DenseReluDense.wi_1",
        Some("ffn_down") => "layer.1.DenseReluDense.wo",
        Some("ffn_norm") => "layer.1.layer_norm",
        _ => return key.to_owned(),
    };
    format!("encoder.block.{block}.{inner}.weight")
}

/// Files that keep the token table under the encoder's name only.
pub(super) fn with_shared(source: Arc<dyn Source>) -> Renamed {
    let recipes = source
        .keys()
        .into_iter()
        .map(|key| {
            let to =
                if key == "encoder.embed_tokens.weight" { "shared.weight".to_owned() } else { key.clone() };
            (to, Recipe::whole(key))
        })
        .collect();
    Renamed::new(source, recipes)
}

//! Black Forest Labs' names (single safetensors files, city96's GGUFs) to diffusers'.
//!
//! Source of the correspondence: diffusers' `convert_flux_to_diffusers`. q, k and v are rows of one matrix there; the last
//! modulation has shift before scale where diffusers has scale before shift.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::CheckpointError;
use crate::models::flux::FluxConfig;
use crate::models::weights::{Part, Recipe, Renamed, Source};

/// Prefixes under which tools store the transformer.
const PREFIXES: [&str; 2] = ["", "model.diffusion_model."];

/// Whether `source` holds a transformer under BFL's names; its prefix.
pub(super) fn prefix(source: &dyn Source) -> Option<&'static str> {
    PREFIXES.into_iter().find(|prefix| source.meta(&format!("{prefix}img_in.weight")).is_some())
}

/// Sizes read off the shapes. BFL files carry no configuration, so the rotary channels of an axis are known for heads
/// of 128 only; `axes` gives them otherwise.
pub(super) fn config(
    source: &dyn Source,
    prefix: &str,
    path: &Path,
    axes: Option<[usize; 3]>,
) -> Result<FluxConfig, CheckpointError> {
    let shape = |key: &str| -> Result<[usize; 2], CheckpointError> {
        let dims = source.meta(&format!("{prefix}{key}")).map(|meta| meta.shape);
        match dims.as_deref() {
            Some([rows]) => Ok([*rows, 1]),
            Some([rows, columns]) => Ok([*rows, *columns]),
            other => {
                Err(CheckpointError::layout(path, format!("{prefix}{key}, a matrix"), format!("{other:?}")))
            }
        }
    };
    let [inner, in_channels] = shape("img_in.weight")?;
    let [out, _] = shape("final_layer.linear.weight")?;
    let [head, _] = shape("double_blocks.0.img_attn.norm.query_norm.scale")?;
    if head == 0 || inner % head != 0 {
        return Err(CheckpointError::layout(
            path,
            "a head size that divides the width",
            format!("{head} and {inner}"),
        ));
    }
    let axes = match (head, axes) {
        (_, Some(axes)) => axes,
        (128, None) => [16, 56, 56],
        (head, None) => {
            return Err(CheckpointError::layout(
                path,
                "heads of 128, or a config.json beside the file that names axes_dims_rope",
                format!("heads of {head} and no config.json"),
            ));
        }
    };
    Ok(FluxConfig {
        patch_size: 1,
        in_channels,
        out_channels: (out != in_channels).then_some(out),
        num_layers: count(source, &format!("{prefix}double_blocks.")),
        num_single_layers: count(source, &format!("{prefix}single_blocks.")),
        attention_head_dim: head,
        num_attention_heads: inner / head,
        joint_attention_dim: shape("txt_in.weight")?[1],
        pooled_projection_dim: shape("vector_in.in_layer.weight")?[1],
        guidance_embeds: source.meta(&format!("{prefix}guidance_in.in_layer.weight")).is_some(),
        axes_dims_rope: axes,
    })
}

/// One more than the largest N of `prefix` N `.`.
fn count(source: &dyn Source, prefix: &str) -> usize {
    source
        .keys()
        .iter()
        .filter_map(|key| key.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok())
        .max()
        .map_or(0, |last| last + 1)
}

/// `source` under diffusers' names. Keys without a counterpart keep theirs, so that they show up as left over.
pub(super) fn transformer(source: Arc<dyn Source>, prefix: &str, config: &FluxConfig) -> Renamed {
    let mut recipes = HashMap::new();
    let mut whole = |to: String, from: String| {
        for end in ["weight", "bias"] {
            recipes.insert(format!("{to}.{end}"), Recipe::whole(format!("{prefix}{from}.{end}")));
        }
    };
    let mut embedders = vec![("time_in", "timestep_embedder"), ("vector_in", "text_embedder")];
    if config.guidance_embeds {
        embedders.push(("guidance_in", "guidance_embedder"));
    }
    for (from, to) in embedders {
        whole(format!("time_text_embed.{to}.linear_1"), format!("{from}.in_layer"));
        whole(format!("time_text_embed.{to}.linear_2"), format!("{from}.out_layer"));
    }
    whole("context_embedder".to_owned(), "txt_in".to_owned());
    whole("x_embedder".to_owned(), "img_in".to_owned());
    whole("proj_out".to_owned(), "final_layer.linear".to_owned());
    for block in 0..config.num_layers {
        for (to, from) in [
            ("norm1.linear", "img_mod.lin"),
            ("norm1_context.linear", "txt_mod.lin"),
            ("attn.to_out.0", "img_attn.proj"),
            ("attn.to_add_out", "txt_attn.proj"),
            ("ff.net.0.proj", "img_mlp.0"),
            ("ff.net.2", "img_mlp.2"),
            ("ff_context.net.0.proj", "txt_mlp.0"),
            ("ff_context.net.2", "txt_mlp.2"),
        ] {
            whole(format!("transformer_blocks.{block}.{to}"), format!("double_blocks.{block}.{from}"));
        }
    }
    for block in 0..config.num_single_layers {
        whole(
            format!("single_transformer_blocks.{block}.norm.linear"),
            format!("single_blocks.{block}.modulation.lin"),
        );
        whole(
            format!("single_transformer_blocks.{block}.proj_out"),
            format!("single_blocks.{block}.linear2"),
        );
    }
    split(&mut recipes, prefix, config);
    // Shift and scale trade places.
    let inner = config.inner();
    for end in ["weight", "bias"] {
        let key = format!("{prefix}final_layer.adaLN_modulation.1.{end}");
        let part = |rows| Part { key: key.clone(), rows: Some(rows) };
        let parts = vec![part(inner..2 * inner), part(0..inner)];
        recipes.insert(format!("norm_out.linear.{end}"), Recipe { parts, flatten: false });
    }
    keep_unknown(source.as_ref(), prefix, &mut recipes);
    Renamed::new(source, recipes)
}

/// Fused matrices into their rows, and the norms of q and k.
fn split(recipes: &mut HashMap<String, Recipe>, prefix: &str, config: &FluxConfig) {
    let inner = config.inner();
    let mut rows = |to: String, from: &str, start: usize, count: usize| {
        for end in ["weight", "bias"] {
            let from = format!("{prefix}{from}.{end}");
            recipes.insert(format!("{to}.{end}"), Recipe::rows(from, start..start + count));
        }
    };
    for block in 0..config.num_layers {
        let to = format!("transformer_blocks.{block}.attn");
        for (stream, names) in
            [("img", ["to_q", "to_k", "to_v"]), ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"])]
        {
            let from = format!("double_blocks.{block}.{stream}_attn.qkv");
            for (index, name) in names.into_iter().enumerate() {
                rows(format!("{to}.{name}"), &from, index * inner, inner);
            }
        }
    }
    for block in 0..config.num_single_layers {
        let to = format!("single_transformer_blocks.{block}");
        let from = format!("single_blocks.{block}.linear1");
        for (index, name) in ["attn.to_q", "attn.to_k", "attn.to_v"].into_iter().enumerate() {
            rows(format!("{to}.{name}"), &from, index * inner, inner);
        }
        rows(format!("{to}.proj_mlp"), &from, 3 * inner, config.mlp());
    }
    let mut norm = |to: String, from: String| {
        recipes.insert(format!("{to}.weight"), Recipe::whole(format!("{prefix}{from}.scale")));
    };
    for block in 0..config.num_layers {
        let to = format!("transformer_blocks.{block}.attn");
        for (stream, q, k) in [("img", "norm_q", "norm_k"), ("txt", "norm_added_q", "norm_added_k")] {
            let from = format!("double_blocks.{block}.{stream}_attn.norm");
            norm(format!("{to}.{q}"), format!("{from}.query_norm"));
            norm(format!("{to}.{k}"), format!("{from}.key_norm"));
        }
    }
    for block in 0..config.num_single_layers {
        let to = format!("single_transformer_blocks.{block}.attn");
        let from = format!("single_blocks.{block}.norm");
        norm(format!("{to}.norm_q"), format!("{from}.query_norm"));
        norm(format!("{to}.norm_k"), format!("{from}.key_norm"));
    }
}

/// Whether `source` holds a VAE under BFL's names (`ae.safetensors`).
pub(super) fn is_vae(source: &dyn Source) -> bool {
    source.meta("decoder.mid.block_1.norm1.weight").is_some()
}

/// BFL's VAE under diffusers' names, for `levels` resolutions. The attention's 1 x 1 convolutions are linear layers there.
pub(super) fn vae(source: Arc<dyn Source>, levels: usize) -> Renamed {
    let recipes = source
        .keys()
        .into_iter()
        .map(|key| {
            let flatten = key.contains(".mid.attn_1.") && !key.contains(".norm.");
            let to = vae_key(&key, levels);
            let parts = vec![Part { key, rows: None }];
            (to, Recipe { parts, flatten })
        })
        .collect();
    Renamed::new(source, recipes)
}

fn vae_key(key: &str, levels: usize) -> String {
    let mut out = Vec::new();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        match (part, parts.peek().copied()) {
            ("down", Some(level)) if level.parse::<usize>().is_ok() => out.push("down_blocks".to_owned()),
            ("up", Some(level)) => match level.parse::<usize>() {
                // BFL numbers the decoder's levels by resolution, diffusers by order.
                Ok(level) => {
                    parts.next();
                    out.push(format!("up_blocks.{}", levels.saturating_sub(1 + level)));
                }
                Err(_) => out.push(part.to_owned()),
            },
            ("block", _) => out.push("resnets".to_owned()),
            ("nin_shortcut", _) => out.push("conv_shortcut".to_owned()),
            ("downsample", _) => out.push("downsamplers.0".to_owned()),
            ("upsample", _) => out.push("upsamplers.0".to_owned()),
            ("mid", _) => out.push("mid_block".to_owned()),
            ("block_1", _) => out.push("resnets.0".to_owned()),
            ("block_2", _) => out.push("resnets.1".to_owned()),
            ("attn_1", Some(inner)) => {
                parts.next();
                let inner = match inner {
                    "norm" => "group_norm",
                    "q" => "to_q",
                    "k" => "to_k",
                    "v" => "to_v",
                    "proj_out" => "to_out.0",
                    other => other,
                };
                out.push(format!("attentions.0.{inner}"));
            }
            ("norm_out", _) => out.push("conv_norm_out".to_owned()),
            _ => out.push(part.to_owned()),
        }
    }
    out.join(".")
}

fn keep_unknown(source: &dyn Source, prefix: &str, recipes: &mut HashMap<String, Recipe>) {
    let used: std::collections::HashSet<String> =
        recipes.values().flat_map(|recipe| recipe.parts.iter().map(|part| part.key.clone())).collect();
    for key in source.keys() {
        if !used.contains(&key) && key.starts_with(prefix) {
            recipes.insert(key.clone(), Recipe::whole(key));
        }
    }
}

//! Stability AI's single file (`sd_xl_base_1.0.safetensors`) as nets under diffusers' and transformers' names.
//!
//! The file holds four nets: the UNet under `latent-diffusion`'s names, the VAE likewise (as Black Forest Labs', which
//! descend from it), CLIP-L under transformers' names, and bigG under OpenCLIP's, which keeps q, k and v as rows of one
//! matrix and its projection transposed. Keys without a counterpart keep their names, so that they show up as left over.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Error, Result};

use super::bfl;
use crate::models::weights::{Extent, Loaded, Meta, Recipe, Renamed, Source};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "conditioner.embedders.0.transformer.text_model.";
const OPEN_CLIP: &str = "conditioner.embedders.1.model.";

/// Whether `source` is such a file.
pub(super) fn is_sdxl(source: &dyn Source) -> bool {
    [format!("{UNET}input_blocks.0.0.weight"), format!("{OPEN_CLIP}positional_embedding")]
        .iter()
        .all(|key| source.meta(key).is_some())
}

/// The UNet; `layers` residual blocks a level on the way down.
pub(super) fn unet(source: Arc<dyn Source>, layers: usize) -> Arc<dyn Source> {
    let recipes = below(source.as_ref(), UNET)
        .map(|(key, inner)| (unet_key(&inner, layers).unwrap_or(inner), Recipe::whole(key)))
        .collect();
    Arc::new(Renamed::new(source, recipes))
}

/// The autoencoder of `levels` resolutions.
pub(super) fn vae(source: Arc<dyn Source>, levels: usize) -> Arc<dyn Source> {
    Arc::new(bfl::vae(Arc::new(Renamed::stripped(source, VAE)), levels))
}

/// CLIP-L.
pub(super) fn clip(source: Arc<dyn Source>) -> Arc<dyn Source> {
    Arc::new(Renamed::stripped(source, CLIP))
}

/// bigG.
pub(super) fn open_clip(source: Arc<dyn Source>) -> Arc<dyn Source> {
    let mut recipes = HashMap::new();
    for (key, inner) in below(source.as_ref(), OPEN_CLIP) {
        let fused = inner.strip_suffix("attn.in_proj_weight").map(|stem| (stem, "weight"));
        let fused = fused.or_else(|| inner.strip_suffix("attn.in_proj_bias").map(|stem| (stem, "bias")));
        if let Some((stem, end)) = fused {
            let rows = source.meta(&key).and_then(|meta| meta.shape.first().copied()).unwrap_or(0) / 3;
            for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                let to = open_clip_key(&format!("{stem}self_attn.{part}.{end}"));
                recipes.insert(to, Recipe::rows(&key, index * rows..(index + 1) * rows));
            }
        } else if inner != "logit_scale" {
            // The scale of the contrastive loss has no use here.
            recipes.insert(open_clip_key(&inner), Recipe::whole(key));
        }
    }
    Arc::new(Transposed { inner: Arc::new(Renamed::new(source, recipes)), key: "text_projection.weight" })
}

/// Keys with `prefix`, with and without it.
fn below(source: &dyn Source, prefix: &'static str) -> impl Iterator<Item = (String, String)> {
    source.keys().into_iter().filter_map(move |key| {
        let inner = key.strip_prefix(prefix)?.to_owned();
        Some((key, inner))
    })
}

/// A UNet key by diffusers' name.
fn unet_key(key: &str, layers: usize) -> Option<String> {
    for (from, to) in [
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("label_emb.0.0.", "add_embedding.linear_1."),
        ("label_emb.0.2.", "add_embedding.linear_2."),
        ("input_blocks.0.0.", "conv_in."),
        ("out.0.", "conv_norm_out."),
        ("out.2.", "conv_out."),
        ("middle_block.1.", "mid_block.attentions.0."),
    ] {
        if let Some(end) = key.strip_prefix(from) {
            return Some(format!("{to}{end}"));
        }
    }
    for (from, to) in
        [("middle_block.0.", "mid_block.resnets.0."), ("middle_block.2.", "mid_block.resnets.1.")]
    {
        if let Some(end) = key.strip_prefix(from) {
            return resnet_key(end).map(|end| format!("{to}{end}"));
        }
    }
    let (side, rest) = key.split_once('.')?;
    let (index, rest) = rest.split_once('.')?;
    let (part, end) = rest.split_once('.')?;
    let index: usize = index.parse().ok()?;
    // A level is `layers` parts and a change of size on the way down, and one part more on the way up.
    let size = layers + 1;
    match side {
        "input_blocks" => {
            let (level, layer) = (index.checked_sub(1)? / size, (index - 1) % size);
            let block = format!("down_blocks.{level}");
            match part {
                "0" => match end.strip_prefix("op.") {
                    Some(end) => Some(format!("{block}.downsamplers.0.conv.{end}")),
                    None => resnet_key(end).map(|end| format!("{block}.resnets.{layer}.{end}")),
                },
                "1" => Some(format!("{block}.attentions.{layer}.{end}")),
                _ => None,
            }
        }
        "output_blocks" => {
            let (block, layer) = (format!("up_blocks.{}", index / size), index % size);
            match (part, end.strip_prefix("conv.")) {
                ("0", _) => resnet_key(end).map(|end| format!("{block}.resnets.{layer}.{end}")),
                // After the attention where there is one, else in its place.
                ("1" | "2", Some(end)) => Some(format!("{block}.upsamplers.0.conv.{end}")),
                ("1", None) => Some(format!("{block}.attentions.{layer}.{end}")),
                _ => None,
            }
        }
        _ => None,
    }
}

fn resnet_key(key: &str) -> Option<String> {
    [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ]
    .into_iter()
    .find_map(|(from, to)| key.strip_prefix(from).map(|end| format!("{to}{end}")))
}

/// An OpenCLIP key by transformers' name.
fn open_clip_key(key: &str) -> String {
    match key {
        "positional_embedding" => return "embeddings.position_embedding.weight".to_owned(),
        "token_embedding.weight" => return "embeddings.token_embedding.weight".to_owned(),
        "text_projection" => return "text_projection.weight".to_owned(),
        _ => {}
    }
    if let Some(end) = key.strip_prefix("ln_final.") {
        return format!("final_layer_norm.{end}");
    }
    let Some((layer, end)) = key.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'))
    else {
        return key.to_owned();
    };
    let renamed = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ]
    .into_iter()
    .find_map(|(from, to)| end.strip_prefix(from).map(|end| format!("{to}{end}")));
    format!("encoder.layers.{layer}.{}", renamed.as_deref().unwrap_or(end))
}

/// A source with one matrix transposed.
struct Transposed {
    inner: Arc<dyn Source>,
    key: &'static str,
}

impl Source for Transposed {
    fn meta(&self, key: &str) -> Option<Meta> {
        let mut meta = self.inner.meta(key)?;
        if key == self.key {
            meta.shape.reverse();
        }
        Some(meta)
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        if key != self.key {
            return self.inner.load(key, rows, device);
        }
        match (self.inner.load(key, None, device)?, rows) {
            (Loaded::Dense(matrix), None) => matrix.t()?.contiguous().map(Loaded::Dense),
            _ => Err(Error::Msg(format!("{key}: only a whole dense matrix can be transposed"))),
        }
    }

    fn extents(&self, key: &str, rows: Option<Range<usize>>) -> Option<Vec<Extent>> {
        if key == self.key { None } else { self.inner.extents(key, rows) }
    }

    fn keys(&self) -> Vec<String> {
        self.inner.keys()
    }

    fn origin(&self, key: &str) -> String {
        self.inner.origin(key)
    }
}

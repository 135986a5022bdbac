//! Writes the goldens' tiny nets in the layouts that checkpoints come in.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::golden::{Case, Goldens};

pub type Map = HashMap<String, Tensor>;

pub struct Nets {
    goldens: Goldens,
    case: Case,
}

impl Nets {
    pub fn open() -> Self {
        let goldens = Goldens::open("pipelines");
        let case = goldens.cases("text_to_image").remove(0);
        Self { goldens, case }
    }

    pub fn tensors(&self, role: &str) -> Map {
        self.goldens.component(&self.case, role).tensors()
    }

    pub fn config(&self, role: &str) -> &serde_json::Value {
        &self.goldens.component(&self.case, role).config
    }

    /// A diffusers folder; `change` edits each net's tensors before they are written.
    pub fn write(&self, folder: &Path, change: impl Fn(&str, &mut Map)) {
        for role in ["transformer", "vae", "text_encoder", "text_encoder_2"] {
            let mut tensors = self.tensors(role);
            change(role, &mut tensors);
            let net = folder.join(role);
            std::fs::create_dir_all(&net).unwrap();
            std::fs::write(net.join("config.json"), self.config(role).to_string()).unwrap();
            candle_core::safetensors::save(&tensors, net.join("model.safetensors")).unwrap();
        }
        for folder in [folder.join("scheduler"), folder.join("tokenizer"), folder.join("tokenizer_2")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(folder.join("scheduler/scheduler_config.json"), self.config("scheduler").to_string())
            .unwrap();
    }
}

/// diffusers' transformer under Black Forest Labs' names: the way opposite to the loader's, written from the table of
/// names alone.
pub fn to_bfl(from: &Map) -> Map {
    let mut to = Map::new();
    let mut from = from.clone();
    let mut take = |key: &str| from.remove(key).unwrap_or_else(|| panic!("no {key}"));
    let cat = |parts: &[Tensor]| Tensor::cat(parts, 0).unwrap();
    for end in ["weight", "bias"] {
        for (bfl, diffusers) in [
            ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
            ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
            ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
            ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
            ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
            ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
            ("txt_in", "context_embedder"),
            ("img_in", "x_embedder"),
            ("final_layer.linear", "proj_out"),
            ("double_blocks.0.img_mod.lin", "transformer_blocks.0.norm1.linear"),
            ("double_blocks.0.txt_mod.lin", "transformer_blocks.0.norm1_context.linear"),
            ("double_blocks.0.img_attn.proj", "transformer_blocks.0.attn.to_out.0"),
            ("double_blocks.0.txt_attn.proj", "transformer_blocks.0.attn.to_add_out"),
            ("double_blocks.0.img_mlp.0", "transformer_blocks.0.ff.net.0.proj"),
            ("double_blocks.0.img_mlp.2", "transformer_blocks.0.ff.net.2"),
            ("double_blocks.0.txt_mlp.0", "transformer_blocks.0.ff_context.net.0.proj"),
            ("double_blocks.0.txt_mlp.2", "transformer_blocks.0.ff_context.net.2"),
            ("single_blocks.0.modulation.lin", "single_transformer_blocks.0.norm.linear"),
            ("single_blocks.0.linear2", "single_transformer_blocks.0.proj_out"),
        ] {
            to.insert(format!("{bfl}.{end}"), take(&format!("{diffusers}.{end}")));
        }
        for (bfl, names) in [
            (
                "double_blocks.0.img_attn.qkv",
                &[
                    "transformer_blocks.0.attn.to_q",
                    "transformer_blocks.0.attn.to_k",
                    "transformer_blocks.0.attn.to_v",
                ][..],
            ),
            (
                "double_blocks.0.txt_attn.qkv",
                &[
                    "transformer_blocks.0.attn.add_q_proj",
                    "transformer_blocks.0.attn.add_k_proj",
                    "transformer_blocks.0.attn.add_v_proj",
                ],
            ),
            (
                "single_blocks.0.linear1",
                &[
                    "single_transformer_blocks.0.attn.to_q",
                    "single_transformer_blocks.0.attn.to_k",
                    "single_transformer_blocks.0.attn.to_v",
                    "single_transformer_blocks.0.proj_mlp",
                ],
            ),
        ] {
            let parts: Vec<Tensor> = names.iter().map(|name| take(&format!("{name}.{end}"))).collect();
            to.insert(format!("{bfl}.{end}"), cat(&parts));
        }
        let last = take(&format!("norm_out.linear.{end}")).chunk(2, 0).unwrap();
        to.insert(format!("final_layer.adaLN_modulation.1.{end}"), cat(&[last[1].clone(), last[0].clone()]));
    }
    for (bfl, diffusers) in [
        ("double_blocks.0.img_attn.norm.query_norm", "transformer_blocks.0.attn.norm_q"),
        ("double_blocks.0.img_attn.norm.key_norm", "transformer_blocks.0.attn.norm_k"),
        ("double_blocks.0.txt_attn.norm.query_norm", "transformer_blocks.0.attn.norm_added_q"),
        ("double_blocks.0.txt_attn.norm.key_norm", "transformer_blocks.0.attn.norm_added_k"),
        ("single_blocks.0.norm.query_norm", "single_transformer_blocks.0.attn.norm_q"),
        ("single_blocks.0.norm.key_norm", "single_transformer_blocks.0.attn.norm_k"),
    ] {
        to.insert(format!("{bfl}.scale"), take(&format!("{diffusers}.weight")));
    }
    assert!(from.is_empty(), "left: {:?}", from.keys());
    to
}

/// diffusers' VAE of four levels under Black Forest Labs' names.
pub fn vae_to_bfl(from: &Map) -> Map {
    let mut to = Map::new();
    for (key, tensor) in from {
        let mut name = key
            .replace("mid_block.resnets.0", "mid.block_1")
            .replace("mid_block.resnets.1", "mid.block_2")
            .replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
            .replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
            .replace("mid_block.attentions.0.to_", "mid.attn_1.")
            .replace("conv_norm_out", "norm_out")
            .replace("conv_shortcut", "nin_shortcut")
            .replace("downsamplers.0", "downsample")
            .replace("upsamplers.0", "upsample")
            .replace("resnets", "block")
            .replace("down_blocks", "down");
        for level in 0..4 {
            name = name.replace(&format!("up_blocks.{level}."), &format!("UP.{}.", 3 - level));
        }
        let name = name.replace("UP.", "up.");
        let convolution = name.contains("attn_1") && !name.contains(".norm.") && name.ends_with("weight");
        let tensor = if convolution {
            let (rows, columns) = tensor.dims2().unwrap();
            tensor.reshape((rows, columns, 1, 1)).unwrap()
        } else {
            tensor.clone()
        };
        to.insert(name, tensor);
    }
    to
}

pub fn save(tensors: &Map, path: &Path) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

/// Splits `folder/model.safetensors` into two shards with an index.
pub fn shard(folder: &Path) {
    let whole = folder.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&whole, &Device::Cpu).unwrap();
    std::fs::remove_file(whole).unwrap();
    let mut keys: Vec<&String> = tensors.keys().collect();
    keys.sort();
    let (mut shards, mut map) = ([Map::new(), Map::new()], serde_json::Map::new());
    for (index, key) in keys.into_iter().enumerate() {
        shards[index % 2].insert(key.clone(), tensors[key].clone());
        map.insert(key.clone(), format!("model-{}.safetensors", index % 2).into());
    }
    for (index, shard) in shards.iter().enumerate() {
        save(shard, &folder.join(format!("model-{index}.safetensors")));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

//! Complete FLUX, SDXL and BiRefNet checkpoints of less than a megabyte (BiRefNet: 14, its decoder has one width) with random
//! weights, in the published layouts.
//!
//! It exists so that the real code path (locating, checking, loading, tokenisers, all nets, the sampler) runs in a second on
//! a CPU, in tests, demonstrations and on a machine without the real files. Its pictures mean nothing. Owns
//! sizes, layout and how weights are drawn; which tensors there are, it asks the nets themselves. Must not know
//! how checkpoints are opened. Callers: the command line's `models tiny`, tests.

mod birefnet;
mod sdxl;
mod tokenizers;
mod weights;

use std::path::{Path, PathBuf};

use candle_core::Result as NetResult;
use serde_json::{Value, json};
use thiserror::Error;

use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::Weights;

pub use birefnet::write_birefnet;
pub use sdxl::{write_sdxl, write_sdxl_controlnet};

/// Which published model the tiny one is built like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Guidance is an input, sigmas shift with the picture's size.
    Dev,
    /// No guidance, fixed sigmas.
    Schnell,
}

/// Why the checkpoint could not be written.
#[derive(Debug, Error)]
pub enum TinyError {
    /// The folder or a file in it.
    #[error("{path}: {source}; choose a folder that can be written")]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A net refused its own configuration; a defect of this module.
    #[error("tiny {net}: {source}")]
    Net {
        /// Which.
        net: &'static str,
        /// What it says.
        source: candle_core::Error,
    },
    /// A configuration that its net cannot read; a defect of this module.
    #[error("tiny {net}: {source}")]
    Config {
        /// Which.
        net: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// Writes the checkpoint into `folder`, which is made if it is missing; files of the same name are replaced. The weights are the
/// same every time.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, family: Family) -> Result<(), TinyError> {
    let (vocabulary, merges) = tokenizers::clip();
    let clip_words = vocabulary.len();
    let (pieces, t5_words) = tokenizers::t5();

    put(folder, "model_index.json", &model_index())?;
    put(folder, "scheduler/scheduler_config.json", &scheduler(family))?;
    put(folder, "tokenizer/vocab.json", &Value::Object(vocabulary))?;
    put_text(folder, "tokenizer/merges.txt", &merges)?;
    put(
        folder,
        "tokenizer/tokenizer_config.json",
        &json!({ "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>" }),
    )?;
    put(folder, "tokenizer_2/tokenizer.json", &pieces)?;
    put(
        folder,
        "tokenizer_2/tokenizer_config.json",
        &json!({ "tokenizer_class": "T5TokenizerFast", "model_max_length": 512, "pad_token": "<pad>" }),
    )?;

    // Published CLIP files carry the prefix `text_model.`, which the nets' keys lack.
    let clip = Net { name: "text_encoder", file: "model", prefix: "text_model.", shards: 1 };
    clip.write::<ClipConfig>(folder, &clip_config(clip_words), |c, w| ClipText::new(c, w).map(drop))?;
    let t5 = Net { name: "text_encoder_2", file: "model", prefix: "", shards: 2 };
    t5.write::<T5Config>(folder, &t5_config(t5_words), |c, w| T5Encoder::new(c, w).map(drop))?;
    let transformer = Net { name: "transformer", file: "diffusion_pytorch_model", prefix: "", shards: 3 };
    transformer.write::<FluxConfig>(folder, &transformer_config(family), |c, w| {
        Conditioner::new(c, w)?;
        Transformer::new(c, w).map(drop)
    })?;
    let vae = Net { name: "vae", file: "diffusion_pytorch_model", prefix: "", shards: 1 };
    vae.write::<VaeConfig>(folder, &vae_config(), |c, w| Vae::new(c, w).map(drop))
}

/// A net's place in the layout.
struct Net {
    name: &'static str,
    /// Stem of the weight files.
    file: &'static str,
    /// Put before every key.
    prefix: &'static str,
    /// Files that the weights are spread over.
    shards: usize,
}

impl Net {
    fn write<C: serde::de::DeserializeOwned>(
        &self,
        folder: &Path,
        config: &Value,
        build: impl Fn(&C, &Weights) -> NetResult<()>,
    ) -> Result<(), TinyError> {
        put(folder, &format!("{}/config.json", self.name), config)?;
        let parsed = C::deserialize(config).map_err(|source| TinyError::Config { net: self.name, source })?;
        let failed = |source| TinyError::Net { net: self.name, source };
        let tensors = weights::drawn(self.name, self.prefix, |w| build(&parsed, w)).map_err(failed)?;
        let own = folder.join(self.name);
        let index = weights::save(&tensors, &own, self.file, self.shards).map_err(failed)?;
        match index {
            Some(index) => put(&own, &format!("{}.safetensors.index.json", self.file), &index),
            None => Ok(()),
        }
    }
}

fn put(folder: &Path, name: &str, value: &Value) -> Result<(), TinyError> {
    put_text(folder, name, &format!("{value:#}\n"))
}

fn put_text(folder: &Path, name: &str, text: &str) -> Result<(), TinyError> {
    let path = folder.join(name);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(&path, text)).map_err(|source| TinyError::Write { path, source })
}

fn model_index() -> Value {
    json!({
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

fn scheduler(family: Family) -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": if family == Family::Dev { 3.0 } else { 1.0 },
        "use_dynamic_shifting": family == Family::Dev,
    })
}

fn clip_config(words: usize) -> Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 32,
        // What CLIP-L's file says; the end token has the highest id.
        "eos_token_id": 2,
    })
}

fn t5_config(words: usize) -> Value {
    json!({
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
    })
}

fn transformer_config(family: Family) -> Value {
    json!({
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": family == Family::Dev,
    })
}

fn vae_config() -> Value {
    let (down, up) = (["DownEncoderBlock2D"; 4], ["UpDecoderBlock2D"; 4]);
    json!({
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [8, 8, 16, 16],
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 4,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "force_upcast": true,
        "use_quant_conv": false,
        "use_post_quant_conv": false,
        "mid_block_add_attention": true,
    })
}

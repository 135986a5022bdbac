//! The tiny SDXL: a whole model, and a ControlNet for it.

use std::path::Path;

use serde_json::{Value, json};

use super::{Net, TinyError, put, put_text, tokenizers};
use crate::models::sdxl::{ControlNet, ControlNetConfig, Unet, UnetConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::vae::{Vae, VaeConfig};

/// Channels of both text encoders; the nets read them side by side.
const TEXT: usize = 32;
/// Channels of the pooled prompt.
const POOLED: usize = 24;
/// Channels of one time id's sinusoid.
const ID: usize = 8;

/// Writes a model in the layout of SDXL's base model into `folder`; see [`super::write`].
///
/// # Errors
/// The folder cannot be written.
pub fn write_sdxl(folder: &Path) -> Result<(), TinyError> {
    put(folder, "model_index.json", &model_index())?;
    put(folder, "scheduler/scheduler_config.json", &scheduler())?;
    let (vocabulary, merges) = tokenizers::clip();
    let words = vocabulary.len();
    // The second encoder was trained on another padding.
    for (name, pad) in [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")] {
        put(folder, &format!("{name}/vocab.json"), &Value::Object(vocabulary.clone()))?;
        put_text(folder, &format!("{name}/merges.txt"), &merges)?;
        let settings =
            json!({ "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad });
        put(folder, &format!("{name}/tokenizer_config.json"), &settings)?;
    }
    let clip = Net { name: "text_encoder", file: "model", prefix: "text_model.", shards: 1 };
    clip.write::<ClipConfig>(folder, &encoder(words, "CLIPTextModel", "quick_gelu", TEXT), |c, w| {
        ClipText::new(c, w).map(drop)
    })?;
    let clip = Net { name: "text_encoder_2", ..clip };
    clip.write::<ClipConfig>(
        folder,
        &encoder(words, "CLIPTextModelWithProjection", "gelu", POOLED),
        |c, w| ClipText::new(c, w).map(drop),
    )?;
    let unet = Net { name: "unet", file: "diffusion_pytorch_model", prefix: "", shards: 1 };
    unet.write::<UnetConfig>(folder, &unet_config(), |c, w| Unet::new(c, w).map(drop))?;
    let vae = Net { name: "vae", ..unet };
    vae.write::<VaeConfig>(folder, &vae_config(), |c, w| Vae::new(c, w).map(drop))
}

/// Writes a ControlNet for [`write_sdxl`]'s model into `folder`: `config.json` and weights side by side, as published.
///
/// # Errors
/// The folder cannot be written.
pub fn write_sdxl_controlnet(folder: &Path) -> Result<(), TinyError> {
    let net = Net { name: ".", file: "diffusion_pytorch_model", prefix: "", shards: 1 };
    net.write::<ControlNetConfig>(folder, &controlnet_config(), |c, w| ControlNet::new(c, w).map(drop))
}

fn model_index() -> Value {
    json!({
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": true,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

fn scheduler() -> Value {
    json!({
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "use_karras_sigmas": false,
    })
}

fn encoder(words: usize, class: &str, activation: &str, projection: usize) -> Value {
    json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": TEXT,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "max_position_embeddings": 77,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": projection,
        "eos_token_id": 2,
    })
}

/// What UNet and ControlNet share.
fn trunk(class: &str) -> Value {
    json!({
        "_class_name": class,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": ID,
        "attention_head_dim": [1, 1, 2],
        "block_out_channels": [16, 16, 32],
        "cross_attention_dim": 2 * TEXT,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "projection_class_embeddings_input_dim": POOLED + 6 * ID,
        "transformer_layers_per_block": [1, 1, 1],
        "use_linear_projection": true,
    })
}

fn unet_config() -> Value {
    let mut config = trunk("UNet2DConditionModel");
    config["out_channels"] = json!(4);
    config["sample_size"] = json!(128);
    config["up_block_types"] = json!(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]);
    config
}

fn controlnet_config() -> Value {
    let mut config = trunk("ControlNetModel");
    config["conditioning_channels"] = json!(3);
    config["conditioning_embedding_out_channels"] = json!([4, 4, 8, 8]);
    config["controlnet_conditioning_channel_order"] = json!("rgb");
    config
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
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": true,
        "use_quant_conv": true,
        "use_post_quant_conv": true,
        "mid_block_add_attention": true,
    })
}

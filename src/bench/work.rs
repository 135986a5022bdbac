//! How much arithmetic a stage is, whatever code does it.
//!
//! A net's constructor, run on a probe, yields every matrix and kernel; this file says how often each is applied. Products
//! of attention come on top. A multiplication and an addition count as two; norms, activations and softmax do not count,
//! nor does what a request computes once.

use std::sync::Arc;

use candle_core::Result;

use crate::models::birefnet::{BiRefNet, BiRefNetConfig};
use crate::models::flux::{FluxConfig, Transformer};
use crate::models::sdxl::{ControlNet, ControlNetConfig, TrunkConfig, Unet, UnetConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::{Expected, Probe, Weights};

/// A stage's arithmetic and its net's size.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Of matrix products and convolutions.
    pub flops: f64,
    /// Numbers in the weights that are read.
    pub weights: f64,
}

/// Everything that `build` asks for.
///
/// # Errors
/// The net refuses its configuration.
pub fn expected(build: impl FnOnce(&Weights) -> Result<()>) -> Result<Vec<Expected>> {
    let probe = Arc::new(Probe::default());
    build(&Weights::probing(&probe))?;
    Ok(probe.expected())
}

/// Each weight times the places that it is applied at (none: it is not read in a round), and attention's products, for
/// which `attention` is asked once a key.
fn count(
    tensors: &[Expected],
    places: impl Fn(&str) -> Option<f64>,
    attention: impl Fn(&str, usize) -> f64,
) -> Work {
    let mut work = Work::default();
    for Expected { key, shape } in tensors {
        let numbers = shape.iter().product::<usize>() as f64;
        let Some(places) = places(key) else { continue };
        work.weights += numbers;
        if shape.len() > 1 {
            work.flops += 2.0 * numbers * places;
        }
        work.flops += attention(key, shape.first().copied().unwrap_or(0));
    }
    work
}

/// Scores and their weighted sum: `queries` x `keys` over `channels` of all heads, twice.
fn attend(queries: f64, keys: f64, channels: usize) -> f64 {
    4.0 * queries * keys * channels as f64
}

/// A step of FLUX, without the modulation layers, which run once a request.
///
/// # Errors
/// The configuration does not fit together.
pub fn flux(config: &FluxConfig, image: usize, words: usize) -> Result<Work> {
    let tensors = expected(|w| Transformer::new(config, w).map(drop))?;
    let (image, words) = (image as f64, words as f64);
    let both = image + words;
    let text = ["context_embedder", ".add_", ".to_add_out", ".ff_context."];
    let places = |key: &str| {
        Some(match key {
            key if key.starts_with("single_transformer_blocks") => both,
            key if text.iter().any(|part| key.contains(part)) => words,
            _ => image,
        })
    };
    Ok(count(&tensors, places, |key, _| {
        // One key norm a block.
        if key.ends_with(".norm_k.weight") { attend(both, both, config.inner()) } else { 0.0 }
    }))
}

/// A prompt through T5.
///
/// # Errors
/// The configuration does not fit together.
pub fn t5(config: &T5Config, words: usize) -> Result<Work> {
    let tensors = expected(|w| T5Encoder::new(config, w).map(drop))?;
    let places = |key: &str| {
        let table = key == "shared.weight" || key.ends_with("relative_attention_bias.weight");
        (!table).then_some(words as f64)
    };
    Ok(count(&tensors, places, |key, _| {
        let once = key.ends_with("SelfAttention.o.weight");
        if once { attend(words as f64, words as f64, config.num_heads * config.d_kv) } else { 0.0 }
    }))
}

/// A prompt through CLIP.
///
/// # Errors
/// The configuration does not fit together.
pub fn clip(config: &ClipConfig, words: usize) -> Result<Work> {
    let tensors = expected(|w| ClipText::new(config, w).map(drop))?;
    let places = |key: &str| match key {
        key if key.contains("_embedding.") => None,
        "text_projection.weight" => Some(1.0),
        _ => Some(words as f64),
    };
    Ok(count(&tensors, places, |key, channels| {
        if key.ends_with("out_proj.weight") { attend(words as f64, words as f64, channels) } else { 0.0 }
    }))
}

/// Latents of `size` (height, width) to pixels.
///
/// # Errors
/// The configuration does not fit together.
pub fn vae_decode(config: &VaeConfig, size: (usize, usize)) -> Result<Work> {
    vae(config, size, "decoder.", "post_quant_conv.")
}

/// Pixels to latents of `size` (height, width).
///
/// # Errors
/// The configuration does not fit together.
pub fn vae_encode(config: &VaeConfig, size: (usize, usize)) -> Result<Work> {
    vae(config, size, "encoder.", "quant_conv.")
}

fn vae(config: &VaeConfig, (height, width): (usize, usize), half: &str, quant: &str) -> Result<Work> {
    let tensors = expected(|w| Vae::new(config, w).map(drop))?;
    let latents = (height * width) as f64;
    let levels = config.block_out_channels.len();
    // Level 0 has the picture's size.
    let at = |level: usize| latents * 4f64.powi((levels - 1).saturating_sub(level) as i32);
    let places = |key: &str| {
        if key.starts_with(quant) {
            return Some(latents);
        }
        let key = key.strip_prefix(half)?;
        let resized = key.contains("samplers");
        Some(if let Some(level) = number(key, "down_blocks.") {
            at(level + usize::from(resized))
        } else if let Some(level) = number(key, "up_blocks.") {
            at((levels - 1).saturating_sub(level + usize::from(resized)))
        } else if key.starts_with("mid_block.") {
            latents
        } else {
            // The convolution on the picture's side has its size, the other the latents'.
            let picture = (half == "encoder.") == key.starts_with("conv_in.");
            if picture { at(0) } else { latents }
        })
    };
    Ok(count(&tensors, places, |key, channels| {
        let own = key.starts_with(half) && key.ends_with(".to_q.weight");
        if own { attend(latents, latents, channels) } else { 0.0 }
    }))
}

/// A step of SDXL on latents of `size` (height, width): `batch` times the UNet and, if there is one, the ControlNet.
///
/// # Errors
/// The configuration does not fit together.
pub fn sdxl(
    unet: &UnetConfig,
    controlnet: Option<&ControlNetConfig>,
    batch: usize,
    size: (usize, usize),
    words: usize,
) -> Result<Work> {
    let mut work =
        trunk(&expected(|w| Unet::new(unet, w).map(drop))?, &unet.trunk, batch as f64, size, words as f64);
    if let Some(config) = controlnet {
        let tensors = expected(|w| ControlNet::new(config, w).map(drop))?;
        let more = trunk(&tensors, &config.trunk, batch as f64, size, words as f64);
        work.flops += more.flops;
        work.weights += more.weights;
    }
    Ok(work)
}

fn trunk(
    tensors: &[Expected],
    config: &TrunkConfig,
    batch: f64,
    (height, width): (usize, usize),
    words: f64,
) -> Work {
    let innermost = config.block_out_channels.len().saturating_sub(1);
    let at = |level: usize| (height * width) as f64 / 4f64.powi(level as i32);
    let level = |key: &str| -> usize {
        let resized = usize::from(key.contains("samplers"));
        if let Some(index) = number(key, "down_blocks.") {
            index + resized
        } else if let Some(index) = number(key, "up_blocks.") {
            innermost.saturating_sub(index + resized)
        } else if let Some(skip) = number(key, "controlnet_down_blocks.") {
            // A level has its layers' skips and the one that its predecessor's change of size left.
            skip / (config.layers_per_block + 1)
        } else if key.starts_with("mid_block.") || key.starts_with("controlnet_mid_block.") {
            innermost
        } else {
            0
        }
    };
    let places = |key: &str| {
        // Once a request: what the control picture and the framing become.
        if key.starts_with("controlnet_cond_embedding.") || key.starts_with("add_embedding.") {
            return None;
        }
        let each = if key.starts_with("time_embedding.") || key.contains("time_emb_proj.") {
            1.0
        } else if key.contains("attn2.to_k.") || key.contains("attn2.to_v.") {
            words
        } else {
            at(level(key))
        };
        Some(batch * each)
    };
    count(tensors, places, |key, channels| {
        let queries = at(level(key));
        if key.ends_with("attn1.to_q.weight") {
            batch * attend(queries, queries, channels)
        } else if key.ends_with("attn2.to_q.weight") {
            batch * attend(queries, words, channels)
        } else {
            0.0
        }
    })
}

/// A picture of `size` (height, width) through BiRefNet, windows without the padding at their edges. Deformable
/// convolutions count as plain ones.
///
/// # Errors
/// The configuration does not fit together.
pub fn birefnet(config: &BiRefNetConfig, (height, width): (usize, usize)) -> Result<Work> {
    let tensors = expected(|w| BiRefNet::new(config, w).map(drop))?;
    // Level 0 is a quarter of the picture's edge.
    let at = |level: usize| (height * width) as f64 / 16.0 / 4f64.powi(level as i32);
    // The encoder sees the picture, and the picture at half its edge.
    let views = 1.25;
    let places = |key: &str| {
        if key.contains("global_avg_pool.") {
            return Some(1.0);
        }
        if let Some(key) = key.strip_prefix("bb.") {
            let level = number(key, "layers.").unwrap_or(0) + usize::from(key.contains(".downsample."));
            // Looked up, not multiplied.
            let table = key.ends_with("relative_position_bias_table");
            return (!table).then_some(views * at(level));
        }
        if key.starts_with("squeeze_module.") {
            return Some(at(3));
        }
        let key = key.strip_prefix("decoder.")?;
        if let Some(index) = number(key, "ipt_blk") {
            return Some(index.checked_sub(2).map_or(at(0) * 16.0, at));
        }
        if let Some(index) = number(key, "lateral_block") {
            return Some(at(index.saturating_sub(2)));
        }
        let level =
            ["decoder_block", "gdt_convs_attn_", "gdt_convs_"].iter().find_map(|name| number(key, name));
        // What is left reads the full size.
        Some(level.map_or(at(0) * 16.0, |index| at(index.saturating_sub(1))))
    };
    let window = (config.backbone.window_size * config.backbone.window_size) as f64;
    Ok(count(&tensors, places, |key, channels| {
        let Some(key) = key.strip_prefix("bb.") else { return 0.0 };
        if !key.ends_with("attn.proj.weight") {
            return 0.0;
        }
        views * attend(at(number(key, "layers.").unwrap_or(0)), window, channels)
    }))
}

/// The number right behind `prefix`, at the start of `key`.
fn number(key: &str, prefix: &str) -> Option<usize> {
    let rest = key.strip_prefix(prefix)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

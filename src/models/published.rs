//! Sizes of the published models, for programs that have no checkpoint at hand: planning, measuring, single files
//! without configurations.
//!
//! Source of each: the `config.json` of the repository that is named. Callers: `checkpoint`, the benchmark.

use super::birefnet::BiRefNetConfig;
use super::flux::FluxConfig;
use super::schedulers::euler_discrete::Spacing;
use super::schedulers::{EulerConfig, FlowMatchConfig};
use super::sdxl::{ControlNetConfig, UnetConfig};
use super::text_encoders::clip::{Activation, ClipConfig};
use super::text_encoders::t5::{FeedForward, T5Config};
use super::vae::VaeConfig;

/// The denoiser of `black-forest-labs/FLUX.1-dev` (`transformer`).
pub fn flux_dev() -> FluxConfig {
    FluxConfig::dev()
}

/// FLUX.1-dev's schedule (`scheduler`).
pub fn flux_dev_scheduler() -> FlowMatchConfig {
    FlowMatchConfig { shift: 3.0, use_dynamic_shifting: true, ..FlowMatchConfig::default() }
}

/// FLUX's autoencoder (`vae` of `black-forest-labs/FLUX.1-dev`).
pub fn flux_vae() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        latent_channels: 16,
        sample_size: 1024,
        scaling_factor: 0.3611,
        shift_factor: Some(0.1159),
        use_quant_conv: false,
        use_post_quant_conv: false,
        ..VaeConfig::default()
    }
}

/// T5-XXL's encoder, version 1.1 (`text_encoder_2` of `black-forest-labs/FLUX.1-dev`).
pub fn t5_xxl() -> T5Config {
    T5Config {
        vocab_size: 32128,
        d_model: 4096,
        d_kv: 64,
        d_ff: 10240,
        num_layers: 24,
        num_heads: 64,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
        feed_forward_proj: FeedForward::GatedGelu,
    }
}

/// CLIP-L (`text_encoder` of FLUX.1-dev and of SDXL's base model).
pub fn clip_l() -> ClipConfig {
    ClipConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        projection_dim: 768,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        eos_token_id: 2,
        ..ClipConfig::default()
    }
}

/// OpenCLIP's bigG (`text_encoder_2` of `stabilityai/stable-diffusion-xl-base-1.0`).
pub fn clip_big_g() -> ClipConfig {
    ClipConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        projection_dim: 1280,
        num_hidden_layers: 32,
        num_attention_heads: 20,
        hidden_act: Activation::Gelu,
        eos_token_id: 2,
        architectures: Some(vec!["CLIPTextModelWithProjection".to_owned()]),
        ..ClipConfig::default()
    }
}

/// The denoiser of `stabilityai/stable-diffusion-xl-base-1.0` (`unet`).
pub fn sdxl_unet() -> UnetConfig {
    UnetConfig::sdxl()
}

/// `diffusers/controlnet-canny-sdxl-1.0`.
pub fn sdxl_controlnet() -> ControlNetConfig {
    ControlNetConfig::sdxl()
}

/// The autoencoder of `stabilityai/stable-diffusion-xl-base-1.0` (`vae`), which overflows in f16.
pub fn sdxl_vae() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        sample_size: 1024,
        scaling_factor: 0.13025,
        force_upcast: true,
        ..VaeConfig::default()
    }
}

/// `madebyollin/sdxl-vae-fp16-fix`: the same sizes, and weights that do not overflow.
pub fn sdxl_vae_fixed() -> VaeConfig {
    VaeConfig { force_upcast: false, ..sdxl_vae() }
}

/// The schedule of `stabilityai/stable-diffusion-xl-base-1.0` (`scheduler`).
pub fn sdxl_scheduler() -> EulerConfig {
    EulerConfig {
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: "scaled_linear".to_owned(),
        timestep_spacing: Spacing::Leading,
        steps_offset: 1,
        ..EulerConfig::default()
    }
}

/// `ZhengPeng7/BiRefNet`, whose file states no sizes: they are the original code's.
pub fn birefnet() -> BiRefNetConfig {
    BiRefNetConfig::default()
}

//! `transformer/config.json`.

use serde::{Deserialize, Serialize};

/// Sizes of a FLUX transformer; defaults are diffusers'.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct FluxConfig {
    /// Side of a patch that one token stands for, beyond the 2 x 2 packing of latents.
    pub patch_size: usize,
    /// Channels of a packed latent token.
    pub in_channels: usize,
    /// Channels predicted; `in_channels` if absent (FLUX.1-Fill reads more than it predicts).
    pub out_channels: Option<usize>,
    /// Blocks with separate weights for text and image.
    pub num_layers: usize,
    /// Blocks with shared weights.
    pub num_single_layers: usize,
    /// Channels a head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Channels of a T5 token.
    pub joint_attention_dim: usize,
    /// Channels of the pooled CLIP vector.
    pub pooled_projection_dim: usize,
    /// Whether the guidance scale is an input (dev) or was distilled away (schnell).
    pub guidance_embeds: bool,
    /// Rotary channels for (unused, row, column); they sum to `attention_head_dim`.
    pub axes_dims_rope: [usize; 3],
}

impl Default for FluxConfig {
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 64,
            out_channels: None,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
        }
    }
}

impl FluxConfig {
    /// FLUX.1-dev, of which schnell differs by `guidance_embeds` only.
    pub fn dev() -> Self {
        Self { guidance_embeds: true, ..Self::default() }
    }

    /// Channels of the residual stream.
    pub fn inner(&self) -> usize {
        self.attention_head_dim * self.num_attention_heads
    }

    /// Channels inside a feed forward.
    pub fn mlp(&self) -> usize {
        4 * self.inner()
    }

    /// Channels of the prediction.
    pub fn out(&self) -> usize {
        self.patch_size * self.patch_size * self.out_channels.unwrap_or(self.in_channels)
    }
}

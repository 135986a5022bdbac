//! The one seam for kernels: every formula that a GPU would rather do in one pass, with its CPU implementation.
//!
//! Shapes are (batch, tokens, channels) unless said otherwise. Each function states where torch rounds to the compute
//! dtype; in f32 those points vanish. Nets call these instead of spelling the arithmetic out, so that a kernel replaces a
//! body here and nothing elsewhere. Must not know any model.

mod activation;
mod attention;
mod conv;
mod linear;
mod norm;
mod picture;
mod rope;
mod wide_attention;

pub use activation::{gated_residual, gelu_erf, gelu_tanh, quick_gelu, sigmoid, silu};
pub use attention::attention;
pub use conv::{Conv, conv_on_card};
pub use linear::Linear;
pub use norm::{
    group_norm, group_norm_silu, layer_norm, layer_norm_modulate, rms_norm, shifted_group_norm_silu,
};
pub use picture::{
    add, cat_channels, each, from_map, from_tokens, gate, geglu, pixel_mean, scaled, tokens, upsample_nearest,
};
pub use rope::{RopeTable, rms_norm_rope};
pub use wide_attention::wide_attention;

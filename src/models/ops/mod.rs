//! The one seam for kernels: every formula that a GPU would rather do in one pass, with its CPU implementation.
//!
//! Shapes are (batch, tokens, channels) unless said otherwise. Each function states where torch rounds to the compute
//! dtype; in f32 those points vanish. Nets call these instead of spelling the arithmetic out, so that a kernel replaces a
//! body here and nothing elsewhere. Must not know any model.

mod activation;
mod attention;
mod beside;
mod conv;
mod eight;
mod eight_attention;
mod int8;
mod linear;
mod norm;
mod picture;
mod pixels;
mod rope;
mod rounding;
mod rows;
mod wide_attention;

pub use activation::{gated_residual, gelu_erf, gelu_tanh, gelu_tanh_gate, quick_gelu, sigmoid, silu};
pub use attention::{attention, attention_into, causal_attention};
pub use beside::{Aside, Beside};
pub use conv::{Conv, conv_on_card};
pub use eight::{Eight, Operand, layer_norm_modulate_for, residual_modulate_for};
pub use eight_attention::{attends_in_eight, attention_eight, rms_norm_rope_eight, unscaled_eight};
pub use int8::Int8;
pub use linear::Linear;
pub use norm::{
    Norm, group_norm, group_norm_silu, layer_norm, layer_norm_modulate, residual_norm, rms_norm,
    shifted_group_norm_silu, t5_norm,
};
pub use picture::{
    add, add_scaled, cat_channels, each, from_map, from_tokens, gate, geglu, pixel_mean, scaled, tokens,
    upsample_nearest,
};
pub use pixels::{picture_bytes, unit_picture};
pub use rope::{QkNorm, RopeTable, rms_norm_rope};
pub use rounding::Rounding;
pub use rows::{embed, join_tokens, relative_bias};
pub use wide_attention::wide_attention;

use candle_core::{Result, Shape, Tensor};

/// A contiguous tensor of `like`'s dtype and device to be written to piece by piece; what it holds before is not defined.
///
/// # Errors
/// The device has no room.
pub fn buffer<S: Into<Shape>>(shape: S, like: &Tensor) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "cuda")]
    if let Some(card) = crate::cuda::launch::card(like.device())
        && crate::cuda::launch::format(like.dtype()).is_some()
    {
        return crate::cuda::launch::empty(shape, like.dtype(), card);
    }
    Tensor::zeros(shape, like.dtype(), like.device())
}

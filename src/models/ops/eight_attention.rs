//! Attention in 8 bits: q, k, v and the result are e4m3 numbers without a scale.
//!
//! A number stands for itself: after RMS norm q and k are of the order of one, v and what is made of it are well within e4m3's
//! 2⁻⁹ to 448, beyond which numbers are held. A scale would move them within a range of 17 binary orders, and cost a pass.

use candle_core::{DType, Device, Result, Tensor};

use super::rounding::e4m3;
use super::{Eight, QkNorm, RopeTable};

#[cfg(feature = "cuda")]
use crate::cuda::{attention_eight as kernel, launch, rope};

/// Whether `device` attends in 8 bits at this shape: (batch, heads, tokens, head dim), for nets that compute in `dtype`. A card
/// does from Hopper on, where cuDNN is; a CPU imitates it.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "a CPU takes all"))]
pub fn attends_in_eight(device: &Device, dtype: DType, shape: [usize; 4]) -> bool {
    #[cfg(feature = "cuda")]
    if let Some(card) = launch::card(device) {
        return matches!(dtype, DType::F16 | DType::BF16) && kernel::available(card, shape);
    }
    true
}

/// [`super::rms_norm_rope`] of `qkv`, which stays as it is, and v, in e4m3 as u8: (batch, tokens, q then k then v).
///
/// # Errors
/// Shapes that do not match, no room on the device.
pub fn rms_norm_rope_eight(
    qkv: &Tensor,
    heads: usize,
    words: usize,
    norms: [&QkNorm; 2],
    eps: f64,
    table: &RopeTable,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let [first, second] = norms;
        let (of_words, of_rest) = ([&first.q, &first.k], [&second.q, &second.k]);
        if let Some(eight) =
            rope::rms_norm_rope_eight(qkv, heads, words, of_words, of_rest, eps, table.halves())?
        {
            return Ok(eight);
        }
    }
    let turned = qkv.copy()?;
    super::rms_norm_rope(&turned, heads, words, norms, eps, table)?;
    unscaled_eight(&turned)
}

/// `softmax(q kᵀ / √dim) v` of what [`rms_norm_rope_eight`] gives: (batch, tokens, heads · dim) in e4m3 as u8.
///
/// # Errors
/// Shapes that do not match, no room on the device.
pub fn attention_eight(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(o) = kernel::attention(qkv, heads)? {
        return Ok(o);
    }
    let (batch, tokens, columns) = qkv.dims3()?;
    let dim = columns / (3 * heads);
    let wide =
        Eight::unscaled(qkv.clone(), DType::F32)?.widened()?.reshape((batch, tokens, 3, heads, dim))?;
    let part = |index: usize| wide.narrow(2, index, 1)?.squeeze(2);
    let scale = 1.0 / (dim as f64).sqrt();
    let o = super::attention(&part(0)?, &part(1)?, &part(2)?, scale, None)?;
    unscaled_eight(&o.reshape((batch, tokens, heads * dim))?)
}

/// `x` in e4m3 as it is, as u8: each number goes to the nearest, held within ±448. Through main memory.
///
/// # Errors
/// Main memory has no room.
pub fn unscaled_eight(x: &Tensor) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let numbers: Vec<u8> = wide.into_iter().map(e4m3).collect();
    Tensor::from_vec(numbers, x.shape(), x.device())
}

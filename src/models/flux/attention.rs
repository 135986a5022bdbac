//! Attention over all tokens of a block, out of a fused projection and into a place of the caller's choice.

use candle_core::{DType, Device, Result, Tensor};

use super::config::FluxConfig;
#[cfg(feature = "cuda")]
use crate::cuda::attention::Fused;
use crate::models::ops::{self, QkNorm, RopeTable};

/// Of every norm in every block.
pub(super) const EPS: f64 = 1e-6;

/// Lets a card get ready for pictures of `rows` x `columns` packed tokens with `words` words, while other work goes on:
/// otherwise the first step waits for it. `in_eight` says whether its matrices are e4m3. Nothing on a CPU.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "a CPU needs no preparation"))]
pub fn warm(
    config: &FluxConfig,
    (words, rows, columns): (usize, usize, usize),
    dtype: DType,
    in_eight: bool,
    device: &Device,
) {
    #[cfg(feature = "cuda")]
    if let Some(card) = crate::cuda::launch::card(device) {
        let tokens = words + rows * columns;
        let (heads, dim) = (config.num_attention_heads, config.attention_head_dim);
        if in_eight && crate::cuda::attention_eight::suits(card) {
            crate::cuda::attention_eight::warm(card, [1, heads, tokens, dim]);
            return;
        }
        let into = |out_columns| Fused { batch: 1, tokens, heads, dim, out_columns };
        // The double blocks', and the single blocks', which write beside their feed forward.
        crate::cuda::attention::warm(
            card,
            dtype,
            [into(config.inner()), into(config.inner() + config.mlp())],
        );
    }
}

/// [`attend`] in 8 bits, where the device does that: the heads of all tokens side by side, (batch, tokens, inner) in e4m3
/// without scales, as u8. `qkv` stays as it is.
pub(super) fn attend_in_eight(
    qkv: &Tensor,
    heads: usize,
    words: usize,
    norms: [&QkNorm; 2],
    rope: &RopeTable,
) -> Result<Option<Tensor>> {
    let (batch, tokens, columns) = qkv.dims3()?;
    let shape = [batch, heads, tokens, columns / (3 * heads)];
    if !ops::attends_in_eight(qkv.device(), qkv.dtype(), shape) {
        return Ok(None);
    }
    let eight = ops::rms_norm_rope_eight(qkv, heads, words, norms, EPS, rope)?;
    ops::attention_eight(&eight, heads).map(Some)
}

/// Normalises and rotates q and k of `qkv` (batch, tokens, q then k then v; contiguous) where they lie, attends, and writes
/// the heads side by side into the first columns of `out` (batch, tokens, at least `heads` x head dim; contiguous). The
/// first of `norms` is for each batch's first `words` tokens, the second for the rest.
pub(super) fn attend(
    qkv: &Tensor,
    heads: usize,
    words: usize,
    norms: [&QkNorm; 2],
    rope: &RopeTable,
    out: &Tensor,
) -> Result<()> {
    ops::rms_norm_rope(qkv, heads, words, norms, EPS, rope)?;
    let (batch, tokens, columns) = qkv.dims3()?;
    let dim = columns / (3 * heads);
    let by_head = |x: &Tensor| x.reshape((batch, tokens, x.dim(2)? / dim, dim));
    let all = by_head(qkv)?;
    let part = |index: usize| all.narrow(2, index * heads, heads);
    let scale = 1.0 / (dim as f64).sqrt();
    ops::attention_into(&part(0)?, &part(1)?, &part(2)?, scale, &by_head(out)?, 0)
}

//! Attention over all tokens of a block, out of a fused projection and into a place of the caller's choice.

use candle_core::{Result, Tensor};

use crate::models::ops::{self, QkNorm, RopeTable};

/// Of every norm in every block.
pub(super) const EPS: f64 = 1e-6;

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

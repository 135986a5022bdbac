//! `softmax(q kᵀ · scale + bias) v`.

use candle_core::{DType, Result, Tensor};

/// Largest score block held at once, in elements: 64 MiB of f32. A full FLUX matrix at 1024 x 1024 would be 2 GB.
const SCORES: usize = 1 << 24;

/// Attention of `q` (batch, queries, heads, head dim) over `k` and `v` (batch, keys, heads, head dim); the result has
/// `q`'s shape. `bias` is added to the scaled scores and broadcasts to (batch, heads, queries, keys): a causal mask of
/// 0 and -inf (1, 1, queries, keys), or T5's positions (1, heads, queries, keys).
///
/// Scores and softmax are f32, the result is rounded once, as torch's fused kernels do. Query rows are independent, so
/// they go through in blocks.
///
/// # Errors
/// Shapes that do not match.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, queries, heads, _) = q.dims4()?;
    let keys = k.dim(1)?;
    let wide = |x: &Tensor| x.transpose(1, 2)?.to_dtype(DType::F32)?.contiguous();
    let (wide_q, wide_k, wide_v) = (wide(q)?, wide(k)?.t()?, wide(v)?);
    let block = (SCORES / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
    let mut rows = Vec::with_capacity(queries.div_ceil(block));
    for start in (0..queries).step_by(block) {
        let count = block.min(queries - start);
        let mut scores = (wide_q.narrow(2, start, count)?.contiguous()?.matmul(&wide_k)? * scale)?;
        if let Some(bias) = bias {
            let bias = if bias.dim(2)? == 1 { bias.clone() } else { bias.narrow(2, start, count)? };
            scores = scores.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        rows.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&wide_v)?);
    }
    Tensor::cat(&rows, 2)?.transpose(1, 2)?.contiguous()?.to_dtype(q.dtype())
}

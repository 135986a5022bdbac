//! `softmax(q kᵀ · scale + bias) v`.

use candle_core::{DType, Device, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{attention as kernel, launch};

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
    #[cfg(feature = "cuda")]
    if let Some(card) = launch::card(q.device()) {
        let o = launch::empty(q.shape(), q.dtype(), card)?;
        if kernel::attention_into(q, k, v, scale, bias.map_or(kernel::Mask::None, kernel::Mask::Bias), &o)? {
            return Ok(o);
        }
    }
    in_blocks(q, k, v, scale, bias)
}

/// [`attention`] in which a query sees its own position and what precedes it.
///
/// # Errors
/// As [`attention`].
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(card) = launch::card(q.device()) {
        let o = launch::empty(q.shape(), q.dtype(), card)?;
        if kernel::attention_into(q, k, v, scale, kernel::Mask::Causal, &o)? {
            return Ok(o);
        }
    }
    let mask = causal_mask(q.dim(1)?, k.dim(1)?, q.device())?;
    in_blocks(q, k, v, scale, Some(&mask))
}

/// [`attention`] without bias, written into `buffer` (batch, queries, any heads, head dim; contiguous) from head `at` on.
///
/// # Errors
/// As [`attention`], or the result does not fit.
pub fn attention_into(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    buffer: &Tensor,
    at: usize,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if launch::card(q.device()).is_some() {
        let o = buffer.narrow(2, at, q.dim(2)?)?;
        if kernel::attention_into(q, k, v, scale, kernel::Mask::None, &o)? {
            return Ok(());
        }
    }
    buffer.slice_set(&in_blocks(q, k, v, scale, None)?, 2, at)
}

/// (1, 1, queries, keys): 0 on and below the diagonal, -inf above.
fn causal_mask(queries: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..queries)
        .flat_map(|query| (0..keys).map(move |key| if key <= query { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(mask, (1, 1, queries, keys), device)
}

fn in_blocks(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
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

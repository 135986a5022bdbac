//! Attention of one head over all channels, as autoencoders have it.

use candle_core::{Result, Tensor};

/// [`super::attention`] of a single head: `q` (batch, queries, channels), `k` and `v` (batch, keys, channels).
///
/// # Errors
/// Shapes that do not match.
pub fn wide_attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() && crate::cuda::wide_attention::takes(q.dtype(), k.dim(1)?, k.dim(2)?) {
        return crate::cuda::wide_attention::attention(q, k, v, scale);
    }
    super::attention(&q.unsqueeze(2)?, &k.unsqueeze(2)?, &v.unsqueeze(2)?, scale, None)?.squeeze(2)
}

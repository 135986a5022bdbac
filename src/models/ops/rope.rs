//! Rotary positions on interleaved pairs, as FLUX uses them.

use candle_core::{DType, Device, Result, Tensor};

/// Cosines and sines of every position, one a pair: (tokens, head dim / 2), f32. Made once a request.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Angles `position · theta^(-2i / d)` for each axis' `d` channels, side by side; in f64, then rounded to f32.
    /// `positions` holds one number per axis for each token.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new<const AXES: usize>(
        positions: &[[f64; AXES]],
        dims: &[usize; AXES],
        theta: f64,
        device: &Device,
    ) -> Result<Self> {
        let pairs: usize = dims.iter().map(|dim| dim / 2).sum();
        let mut cos = Vec::with_capacity(positions.len() * pairs);
        let mut sin = Vec::with_capacity(positions.len() * pairs);
        for position in positions {
            for (&at, &dim) in position.iter().zip(dims) {
                for pair in 0..dim / 2 {
                    let frequency = 1.0 / theta.powf((2 * pair) as f64 / dim as f64);
                    let angle = at * frequency;
                    cos.push(angle.cos() as f32);
                    sin.push(angle.sin() as f32);
                }
            }
        }
        let shape = (positions.len(), pairs);
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// `x` (batch, tokens, heads, head dim) turned: `(a, b) -> (a cos - b sin, b cos + a sin)` for each pair. f32 inside,
    /// rounded once.
    ///
    /// # Errors
    /// Another number of tokens or channels than the table's.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?.transpose(1, 2)?.contiguous()?;
        candle_nn::rotary_emb::rope_i(&wide, &self.cos, &self.sin)?
            .transpose(1, 2)?
            .contiguous()?
            .to_dtype(x.dtype())
    }
}

/// [`super::rms_norm`] over the head dim, then [`RopeTable::apply`]: what q and k go through. torch rounds after each.
///
/// # Errors
/// As the two.
pub fn rms_norm_rope(x: &Tensor, weight: &Tensor, eps: f64, table: &RopeTable) -> Result<Tensor> {
    table.apply(&super::rms_norm(x, weight, eps)?)
}

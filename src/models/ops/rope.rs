//! Rotary positions on interleaved pairs, as FLUX uses them.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use crate::models::device::send;

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
        // A picture of 64 x 64 tokens has 64 rows and 64 columns, not 4096 of each.
        let mut known: [HashMap<u64, Vec<(f32, f32)>>; AXES] = std::array::from_fn(|_| HashMap::new());
        for position in positions {
            for ((&at, &dim), known) in position.iter().zip(dims).zip(&mut known) {
                let turns = known.entry(at.to_bits()).or_insert_with(|| {
                    let turn = |pair: usize| {
                        let angle = at * (1.0 / theta.powf((2 * pair) as f64 / dim as f64));
                        (angle.cos() as f32, angle.sin() as f32)
                    };
                    (0..dim / 2).map(turn).collect()
                });
                cos.extend(turns.iter().map(|turn| turn.0));
                sin.extend(turns.iter().map(|turn| turn.1));
            }
        }
        let shape = (positions.len(), pairs);
        let table = |values| send(&Tensor::from_vec(values, shape, &Device::Cpu)?, device);
        Ok(Self { cos: table(cos)?, sin: table(sin)? })
    }

    /// From cosines and sines, (tokens, head dim / 2) f32 each.
    pub fn from_tensors(cos: Tensor, sin: Tensor) -> Self {
        Self { cos, sin }
    }

    /// Cosines and sines.
    #[cfg(feature = "cuda")]
    pub(super) fn halves(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
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

/// Norm weights of q and k, (head dim) each.
#[derive(Debug, Clone)]
pub struct QkNorm {
    /// Of q.
    pub q: Tensor,
    /// Of k.
    pub k: Tensor,
}

/// Changes q and k in `qkv` (batch, tokens, q then k then v of `heads` each; contiguous): [`super::rms_norm`] over the head
/// dim with the first of `norms` for each batch's first `words` tokens and the second for the rest, then
/// [`RopeTable::apply`]. torch rounds after each.
///
/// # Errors
/// Shapes that do not match.
pub fn rms_norm_rope(
    qkv: &Tensor,
    heads: usize,
    words: usize,
    norms: [&QkNorm; 2],
    eps: f64,
    table: &RopeTable,
) -> Result<()> {
    let [first, second] = norms;
    #[cfg(feature = "cuda")]
    {
        let (of_words, of_rest) = ([&first.q, &first.k], [&second.q, &second.k]);
        if crate::cuda::rope::rms_norm_rope(qkv, heads, words, of_words, of_rest, eps, table.halves())? {
            return Ok(());
        }
    }
    let (batch, tokens, columns) = qkv.dims3()?;
    let inner = columns / 3;
    let turned = |index: usize, weights: [&Tensor; 2]| -> Result<Tensor> {
        let part = qkv.narrow(2, index * inner, inner)?.reshape((batch, tokens, heads, inner / heads))?;
        let mut parts = Vec::with_capacity(2);
        for (weight, from, count) in [(weights[0], 0, words), (weights[1], words, tokens - words)] {
            if count > 0 {
                parts.push(super::rms_norm(&part.narrow(1, from, count)?, weight, eps)?);
            }
        }
        table.apply(&Tensor::cat(&parts, 1)?)?.reshape((batch, tokens, inner))
    };
    let (q, k) = (turned(0, [&first.q, &second.q])?, turned(1, [&first.k, &second.k])?);
    qkv.slice_set(&q, 2, 0)?;
    qkv.slice_set(&k, 2, inner)
}

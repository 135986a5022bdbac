//! q, k and v of one stream: a fused projection, split into heads, q and k normalised.

use candle_core::{Module, Result, Tensor};

use crate::models::ops::{self, Linear};

/// Norm weights of q and k, (head dim) each. eps is 1e-6 in every block.
#[derive(Debug, Clone)]
pub(super) struct QkNorm {
    pub(super) q: Tensor,
    pub(super) k: Tensor,
}

pub(super) const EPS: f64 = 1e-6;

/// (batch, tokens, heads, head dim) each, before rotation.
pub(super) struct Qkv {
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
}

impl Qkv {
    /// From the fused projection of `x` (batch, tokens, inner); columns past 3 x inner are not looked at.
    pub(super) fn project(x: &Tensor, fused: &Linear, norm: &QkNorm, heads: usize) -> Result<Self> {
        Self::split(&fused.forward(x)?, norm, heads, x.dim(2)?)
    }

    pub(super) fn split(fused: &Tensor, norm: &QkNorm, heads: usize, inner: usize) -> Result<Self> {
        let (batch, tokens, _) = fused.dims3()?;
        let part = |index: usize| {
            fused.narrow(2, index * inner, inner)?.reshape((batch, tokens, heads, inner / heads))
        };
        Ok(Self {
            q: ops::rms_norm(&part(0)?, &norm.q, EPS)?,
            k: ops::rms_norm(&part(1)?, &norm.k, EPS)?,
            v: part(2)?,
        })
    }

    /// `first`'s tokens, then `second`'s.
    pub(super) fn join(first: &Self, second: &Self) -> Result<Self> {
        Ok(Self {
            q: Tensor::cat(&[&first.q, &second.q], 1)?,
            k: Tensor::cat(&[&first.k, &second.k], 1)?,
            v: Tensor::cat(&[&first.v, &second.v], 1)?,
        })
    }

    /// Rotates, attends, and puts the heads back together: (batch, tokens, inner).
    pub(super) fn attend(&self, rope: &ops::RopeTable) -> Result<Tensor> {
        let (batch, tokens, heads, dim) = self.q.dims4()?;
        let scale = 1.0 / (dim as f64).sqrt();
        ops::attention(&rope.apply(&self.q)?, &rope.apply(&self.k)?, &self.v, scale, None)?.reshape((
            batch,
            tokens,
            heads * dim,
        ))
    }
}

//! One block: attention inside windows, then a feed forward, each added to what came in.

use candle_core::{Module, Result, Tensor};

use super::Norm;
use super::attention::WindowAttention;
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;

/// Odd blocks move the windows by half their edge.
#[derive(Debug, Clone)]
pub(super) struct Block {
    norm1: Norm,
    attention: WindowAttention,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    pub(super) fn new(
        channels: usize,
        heads: usize,
        window: usize,
        shifted: bool,
        w: &Weights,
    ) -> Result<Self> {
        let shift = if shifted { window / 2 } else { 0 };
        Ok(Self {
            norm1: Norm::new(channels, &w.pp("norm1"))?,
            attention: WindowAttention::new(channels, heads, window, shift, &w.pp("attn"))?,
            norm2: Norm::new(channels, &w.pp("norm2"))?,
            fc1: w.pp("mlp.fc1").linear(channels, 4 * channels, true)?,
            fc2: w.pp("mlp.fc2").linear(4 * channels, channels, true)?,
        })
    }

    /// `x` (batch, height, width, channels), any size.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let attended = self.attention.forward(&self.norm1.forward(x)?)?;
        let (x, normed) = self.norm2.after(x, &attended)?;
        let inner = ops::gelu_erf(&self.fc1.forward(&normed)?)?;
        x + self.fc2.forward(&inner)?
    }
}

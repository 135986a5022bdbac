//! The half that a UNet and a ControlNet have in common: embeddings, the way down, the middle.

use candle_core::{Result, Tensor};

use super::TIME_IDS;
use super::blocks::{DownBlock, MidBlock};
use super::config::{Shape, TrunkConfig};
use super::embedding::Embedder;
use crate::models::ops::{self, Conv};
use crate::models::weights::Weights;

/// What a net is told beside latents and noise level. Computed once a request: it is the same for all steps.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// (batch, words, text channels).
    pub(super) text: Tensor,
    /// (batch, time channels), of one net: the layers that make it differ.
    pub(super) additions: Tensor,
}

#[derive(Debug, Clone)]
pub(super) struct Trunk {
    embedder: Embedder,
    conv_in: Conv,
    down: Vec<DownBlock>,
    middle: MidBlock,
}

impl Trunk {
    pub(super) fn new(config: &TrunkConfig, shape: &Shape, w: &Weights) -> Result<Self> {
        let down = |index: usize| DownBlock::new(shape, index, &w.pp("down_blocks").pp(index));
        Ok(Self {
            embedder: Embedder::new(config, shape, w)?,
            conv_in: Conv::new(config.in_channels, shape.outermost, 3, 1, 1, &w.pp("conv_in"))?,
            down: (0..shape.levels.len()).map(down).collect::<Result<_>>()?,
            middle: MidBlock::new(shape, &w.pp("mid_block"))?,
        })
    }

    pub(super) fn condition(
        &self,
        text: &Tensor,
        pooled: &Tensor,
        ids: &[[f32; TIME_IDS]],
    ) -> Result<Conditioning> {
        Ok(Conditioning { text: text.clone(), additions: self.embedder.additions(pooled, ids)? })
    }

    /// What residual blocks project, every skip, and the middle's output. `hint` is added to the first convolution's.
    pub(super) fn forward(
        &self,
        sample: &Tensor,
        timestep: f32,
        conditioning: &Conditioning,
        hint: Option<&Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>, Tensor)> {
        let time = self.embedder.forward(timestep, &conditioning.additions)?;
        let mut x = self.conv_in.forward(sample)?;
        if let Some(hint) = hint {
            x = if hint.shape() == x.shape() { ops::add(&x, hint)? } else { x.broadcast_add(hint)? };
        }
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(x, &time, &conditioning.text, &mut skips)?;
        }
        let x = self.middle.forward(&x, &time, &conditioning.text)?;
        Ok((time, skips, x))
    }
}

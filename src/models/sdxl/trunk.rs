//! The half that a UNet and a ControlNet have in common: embeddings, the way down, the middle.

use candle_core::{Result, Tensor};

use super::TIME_IDS;
use super::blocks::{DownBlock, MidBlock};
use super::config::{Shape, TrunkConfig};
use super::embedding::Embedder;
use super::transformer::Read;
use crate::models::ops::{self, Conv};
use crate::models::weights::Weights;

/// What a net is told beside latents and noise level. Computed once a request: it is the same for all steps.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Keys and values of the text in every attention layer, in the order in which they run.
    pub(super) text: Vec<Tensor>,
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
        let mut read = Vec::new();
        self.down.iter().try_for_each(|block| block.read(text, &mut read))?;
        self.middle.read(text, &mut read)?;
        Ok(Conditioning { text: read, additions: self.embedder.additions(pooled, ids)? })
    }

    /// What residual blocks project at `timestep`: (batch, time channels).
    pub(super) fn time(&self, timestep: f32, conditioning: &Conditioning) -> Result<Tensor> {
        self.embedder.forward(timestep, &conditioning.additions)
    }

    /// Every skip, and the middle's output; `text` is left where the way up begins. `hint` is added to the first convolution's.
    pub(super) fn forward(
        &self,
        sample: &Tensor,
        time: &Tensor,
        text: &mut Read<'_>,
        hint: Option<&Tensor>,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let mut x = self.conv_in.forward(sample)?;
        if let Some(hint) = hint {
            x = ops::add(&x, hint)?;
        }
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(x, time, text, &mut skips)?;
        }
        let x = self.middle.forward(&x, time, text)?;
        Ok((skips, x))
    }
}

//! Swin transformer, version 1: the encoder. Feature maps at a quarter, an eighth, a 16th and a 32nd of the size.
//!
//! Knows windows and heads; must not know what the features are for. Inside, maps are (batch, height, width, channels).

mod attention;
mod block;
mod window;

use candle_core::{Module, Result, Tensor};

use super::config::SwinConfig;
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;
use block::Block;

pub(super) use attention::distances;
pub use attention::{Windows, window_attention};

/// Pixels along a token's edge.
const PATCH: usize = 4;
const EPS: f64 = 1e-5;

/// The encoder with the norms of its four outputs.
#[derive(Debug, Clone)]
pub struct Swin {
    patches: Patches,
    stages: Vec<Stage>,
}

#[derive(Debug, Clone)]
struct Stage {
    blocks: Vec<Block>,
    norm: Norm,
    merge: Option<Merge>,
}

impl Swin {
    /// Reads from the view that holds `patch_embed`, `layers` and `norm0` to `norm3`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &SwinConfig, w: &Weights) -> Result<Self> {
        let stage = |stage: usize| {
            let (channels, view) = (config.channels(stage), w.pp("layers").pp(stage));
            let block = |index: usize| {
                let shifted = !index.is_multiple_of(2);
                let heads = config.num_heads.get(stage).copied().unwrap_or(1);
                Block::new(channels, heads, config.window_size, shifted, &view.pp("blocks").pp(index))
            };
            let depth = config.depths.get(stage).copied().unwrap_or(0);
            Ok(Stage {
                blocks: (0..depth).map(block).collect::<Result<_>>()?,
                merge: if stage < 3 { Some(Merge::new(channels, &view.pp("downsample"))?) } else { None },
                norm: Norm::new(channels, &w.pp(format!("norm{stage}")))?,
            })
        };
        Ok(Self {
            patches: Patches::new(config.embed_dim, &w.pp("patch_embed"))?,
            stages: (0..4).map(stage).collect::<Result<_>>()?,
        })
    }

    /// `x` (batch, 3, height, width), sides multiples of 4, to four maps (batch, channels, height, width). `before` is called before
    /// each block and may stop the run.
    ///
    /// # Errors
    /// Shapes that do not fit, no room on the device, or what `before` returns.
    pub fn forward(&self, x: &Tensor, before: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Tensor>> {
        let mut x = self.patches.forward(x)?;
        let mut features = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in &stage.blocks {
                before()?;
                x = block.forward(&x)?;
            }
            features.push(ops::from_map(&stage.norm.forward(&x)?)?);
            if let Some(merge) = &stage.merge {
                x = merge.forward(&x)?;
            }
        }
        Ok(features)
    }
}

/// Layer norm over channels.
#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self { weight: w.get(channels, "weight")?, bias: w.get(channels, "bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, Some((&self.weight, &self.bias)), EPS)
    }

    /// `x + y`, and its norm.
    fn after(&self, x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let norm = ops::Norm::Layer { weight: &self.weight, bias: &self.bias };
        ops::residual_norm(x, None, y, norm, EPS)
    }
}

/// Pixels to tokens: a convolution whose stride is its kernel, which is one product over cut-out squares.
#[derive(Debug, Clone)]
struct Patches {
    weight: Tensor,
    bias: Tensor,
    norm: Norm,
}

impl Patches {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.pp("proj").get((channels, 3, PATCH, PATCH), "weight")?,
            bias: w.pp("proj").get(channels, "bias")?,
            norm: Norm::new(channels, &w.pp("norm"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, colours, height, width) = x.dims4()?;
        if !height.is_multiple_of(PATCH) || !width.is_multiple_of(PATCH) {
            candle_core::bail!("Swin input of {height} x {width}: sides must be multiples of {PATCH}");
        }
        let (rows, columns) = (height / PATCH, width / PATCH);
        let squares = x
            .reshape((batch, colours, rows, PATCH, columns, PATCH))?
            .permute((0, 2, 4, 1, 3, 5))?
            .contiguous()?
            .reshape((batch, rows, columns, colours * PATCH * PATCH))?;
        let weight = self.weight.flatten_from(1)?;
        self.norm.forward(&Linear::dense(weight, Some(self.bias.clone())).forward(&squares)?)
    }
}

/// Four neighbours to one token of twice the channels.
#[derive(Debug, Clone)]
struct Merge {
    norm: Norm,
    reduction: Linear,
}

impl Merge {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(4 * channels, &w.pp("norm"))?,
            reduction: w.pp("reduction").linear(4 * channels, 2 * channels, false)?,
        })
    }

    /// Odd sides get a row or column of zeros. Channels of the four lie in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let x = x.pad_with_zeros(1, 0, height % 2)?.pad_with_zeros(2, 0, width % 2)?;
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        let fours = x
            .reshape((batch, rows, 2, columns, 2, channels))?
            .permute((0, 1, 3, 4, 2, 5))?
            .contiguous()?
            .reshape((batch, rows, columns, 4 * channels))?;
        self.reduction.forward(&self.norm.forward(&fours)?)
    }
}

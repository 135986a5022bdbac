//! The levels on the way down and up, and the middle.

use candle_core::{Result, Tensor};

use super::config::{Level, Shape};
use super::resnet::{Downsample, Resnet, Upsample};
use super::transformer::{Read, Transformer};
use crate::models::ops;
use crate::models::weights::Weights;

/// A residual block, with attention after it in some levels.
#[derive(Debug, Clone)]
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
}

impl Layer {
    fn new(shape: &Shape, level: Level, inputs: usize, index: usize, w: &Weights) -> Result<Self> {
        let transformer = |attention| {
            Transformer::new(
                level.channels,
                attention,
                shape.text,
                shape.groups,
                &w.pp("attentions").pp(index),
            )
        };
        Ok(Self {
            resnet: Resnet::new(shape, inputs, level.channels, &w.pp("resnets").pp(index))?,
            transformer: level.attention.map(transformer).transpose()?,
        })
    }

    fn read(&self, text: &Tensor, into: &mut Vec<Tensor>) -> Result<()> {
        self.transformer.as_ref().map_or(Ok(()), |transformer| transformer.read(text, into))
    }

    fn forward(&self, x: &Tensor, time: &Tensor, text: &mut Read<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, time)?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, text),
            None => Ok(x),
        }
    }
}

/// A level on the way down.
#[derive(Debug, Clone)]
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    pub(super) fn new(shape: &Shape, index: usize, w: &Weights) -> Result<Self> {
        let level = level(shape, index)?;
        let before = if index == 0 { shape.outermost } else { self::level(shape, index - 1)?.channels };
        let layer = |i: usize| Layer::new(shape, level, if i == 0 { before } else { level.channels }, i, w);
        Ok(Self {
            layers: (0..shape.layers).map(layer).collect::<Result<_>>()?,
            downsample: (index + 1 < shape.levels.len())
                .then(|| Downsample::new(level.channels, w))
                .transpose()?,
        })
    }

    /// What the attention layers make of the text, in the order of [`DownBlock::forward`].
    pub(super) fn read(&self, text: &Tensor, into: &mut Vec<Tensor>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.read(text, into))
    }

    /// Pushes every layer's output, and the downsampled one, onto `skips`; the last is the result.
    pub(super) fn forward(
        &self,
        x: Tensor,
        time: &Tensor,
        text: &mut Read<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(&x, time, text)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The innermost level: residual block, attention, residual block.
#[derive(Debug, Clone)]
pub(super) struct MidBlock {
    first: Resnet,
    transformer: Transformer,
    second: Resnet,
}

impl MidBlock {
    pub(super) fn new(shape: &Shape, w: &Weights) -> Result<Self> {
        let channels = shape.innermost;
        Ok(Self {
            first: Resnet::new(shape, channels, channels, &w.pp("resnets.0"))?,
            transformer: Transformer::new(
                channels,
                shape.middle,
                shape.text,
                shape.groups,
                &w.pp("attentions.0"),
            )?,
            second: Resnet::new(shape, channels, channels, &w.pp("resnets.1"))?,
        })
    }

    /// What the attention layers make of the text, in the order of [`MidBlock::forward`].
    pub(super) fn read(&self, text: &Tensor, into: &mut Vec<Tensor>) -> Result<()> {
        self.transformer.read(text, into)
    }

    pub(super) fn forward(&self, x: &Tensor, time: &Tensor, text: &mut Read<'_>) -> Result<Tensor> {
        self.second.forward(&self.transformer.forward(&self.first.forward(x, time)?, text)?, time)
    }
}

/// A level on the way up.
#[derive(Debug, Clone)]
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// `index` counts levels from the innermost outwards.
    pub(super) fn new(shape: &Shape, index: usize, w: &Weights) -> Result<Self> {
        let count = shape.levels.len();
        let at = |index: usize| level(shape, count.saturating_sub(index + 1));
        let level = at(index)?;
        let before = if index == 0 { shape.innermost } else { at(index - 1)?.channels };
        // The last skip of a level was made by the level outside it.
        let outside = at((index + 1).min(count - 1))?.channels;
        let layer = |i: usize| {
            let skip = if i == shape.layers { outside } else { level.channels };
            Layer::new(shape, level, skip + if i == 0 { before } else { level.channels }, i, w)
        };
        Ok(Self {
            layers: (0..=shape.layers).map(layer).collect::<Result<_>>()?,
            upsample: (index + 1 < count).then(|| Upsample::new(level.channels, w)).transpose()?,
        })
    }

    /// What the attention layers make of the text, in the order of [`UpBlock::forward`].
    pub(super) fn read(&self, text: &Tensor, into: &mut Vec<Tensor>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.read(text, into))
    }

    /// Takes its skips off the end of `skips`.
    pub(super) fn forward(
        &self,
        x: Tensor,
        time: &Tensor,
        text: &mut Read<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            let Some(skip) = skips.pop() else {
                candle_core::bail!("UNet: a level on the way up has no skip left")
            };
            x = layer.forward(&ops::cat_channels(&[&x, &skip])?, time, text)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(next)) => upsample.forward(&x, next.dim(2)?, next.dim(3)?),
            _ => Ok(x),
        }
    }
}

fn level(shape: &Shape, index: usize) -> Result<Level> {
    match shape.levels.get(index) {
        Some(level) => Ok(*level),
        None => candle_core::bail!("UNet: no level {index}; there are {}", shape.levels.len()),
    }
}

//! Residual blocks and changes of size.

use candle_core::{Module, Result, Tensor};

use super::config::Shape;
use crate::models::ops::{self, Conv, Linear};
use crate::models::weights::Weights;

#[derive(Debug, Clone)]
pub(super) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    pub(super) fn new(channels: usize, groups: usize, eps: f64, w: &Weights) -> Result<Self> {
        Ok(Self { weight: w.get(channels, "weight")?, bias: w.get(channels, "bias")?, groups, eps })
    }

    pub(super) fn plain(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.eps)
    }

    pub(super) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm_silu(x, &self.weight, &self.bias, self.groups, self.eps)
    }

    fn shifted_silu(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        ops::shifted_group_norm_silu(x, shift, &self.weight, &self.bias, self.groups, self.eps)
    }
}

/// Two convolutions with the embedded timestep added between.
#[derive(Debug, Clone)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Resnet {
    pub(super) fn new(shape: &Shape, inputs: usize, outputs: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::new(inputs, shape.groups, shape.eps, &w.pp("norm1"))?,
            conv1: Conv::new(inputs, outputs, 3, 1, 1, &w.pp("conv1"))?,
            time: w.pp("time_emb_proj").linear(shape.time(), outputs, true)?,
            norm2: GroupNorm::new(outputs, shape.groups, shape.eps, &w.pp("norm2"))?,
            conv2: Conv::new(outputs, outputs, 3, 1, 1, &w.pp("conv2"))?,
            shortcut: (inputs != outputs)
                .then(|| Conv::new(inputs, outputs, 1, 1, 0, &w.pp("conv_shortcut")))
                .transpose()?,
        })
    }

    /// `time` (batch, time channels) after SiLU.
    pub(super) fn forward(&self, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        let y = self.conv1.forward(&self.norm1.silu(x)?)?;
        let y = self.conv2.forward(&self.norm2.shifted_silu(&y, &self.time.forward(time)?)?)?;
        match &self.shortcut {
            Some(conv) => conv.forward_onto(x, &y),
            None => ops::add(x, &y),
        }
    }
}

/// Halves the size.
#[derive(Debug, Clone)]
pub(super) struct Downsample(Conv);

impl Downsample {
    pub(super) fn new(channels: usize, w: &Weights) -> Result<Self> {
        Conv::new(channels, channels, 3, 2, 1, &w.pp("downsamplers.0.conv")).map(Self)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// Nearest neighbours, then a convolution.
#[derive(Debug, Clone)]
pub(super) struct Upsample(Conv);

impl Upsample {
    pub(super) fn new(channels: usize, w: &Weights) -> Result<Self> {
        Conv::new(channels, channels, 3, 1, 1, &w.pp("upsamplers.0.conv")).map(Self)
    }

    /// To the size of what it will be joined with: twice its own, one less where halving had rounded up.
    pub(super) fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.0.forward(&ops::upsample_nearest(x, height, width)?)
    }
}

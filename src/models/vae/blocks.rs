//! What both halves are built of: residual block, single-head attention, the middle.

use candle_core::{Module, Result, Tensor};

use super::VaeConfig;
use crate::models::ops::{self, Conv, Linear};
use crate::models::weights::Weights;

/// Of every norm in the autoencoder.
const EPS: f64 = 1e-6;

#[derive(Debug, Clone)]
pub(super) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl GroupNorm {
    pub(super) fn new(config: &VaeConfig, channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.get(channels, "weight")?,
            bias: w.get(channels, "bias")?,
            groups: config.norm_num_groups,
        })
    }

    pub(super) fn silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm_silu(x, &self.weight, &self.bias, self.groups, EPS)
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, EPS)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Resnet {
    pub(super) fn new(config: &VaeConfig, inputs: usize, outputs: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::new(config, inputs, &w.pp("norm1"))?,
            conv1: Conv::new(inputs, outputs, 3, 1, 1, &w.pp("conv1"))?,
            norm2: GroupNorm::new(config, outputs, &w.pp("norm2"))?,
            conv2: Conv::new(outputs, outputs, 3, 1, 1, &w.pp("conv2"))?,
            shortcut: (inputs != outputs)
                .then(|| Conv::new(inputs, outputs, 1, 1, 0, &w.pp("conv_shortcut")))
                .transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv1.forward(&self.norm1.silu(x)?)?;
        let y = self.conv2.forward(&self.norm2.silu(&y)?)?;
        match &self.shortcut {
            Some(conv) => ops::add(&conv.forward(x)?, &y),
            None => ops::add(x, &y),
        }
    }
}

/// Self-attention over all positions, one head of all channels.
#[derive(Debug, Clone)]
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn new(config: &VaeConfig, channels: usize, w: &Weights) -> Result<Self> {
        let linear = |name: &str| w.pp(name).linear(channels, channels, true);
        Ok(Self {
            norm: GroupNorm::new(config, channels, &w.pp("group_norm"))?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: linear("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        let tokens = ops::tokens(&self.norm.plain(x)?)?;
        let scale = 1.0 / (channels as f64).sqrt();
        let (q, k, v) = (self.q.forward(&tokens)?, self.k.forward(&tokens)?, self.v.forward(&tokens)?);
        let y = self.out.forward(&ops::wide_attention(&q, &k, &v, scale)?)?;
        ops::add(&ops::from_tokens(&y, height, width)?, x)
    }
}

/// Residual block, attention, residual block.
#[derive(Debug, Clone)]
pub(super) struct Middle {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl Middle {
    pub(super) fn new(config: &VaeConfig, channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            first: Resnet::new(config, channels, channels, &w.pp("resnets.0"))?,
            attention: config
                .mid_block_add_attention
                .then(|| Attention::new(config, channels, &w.pp("attentions.0")))
                .transpose()?,
            second: Resnet::new(config, channels, channels, &w.pp("resnets.1"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.first.forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.second.forward(&x)
    }
}

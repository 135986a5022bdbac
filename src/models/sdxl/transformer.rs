//! Attention over all positions of a level, and to the prompt.

use candle_core::{Module, Result, Tensor};

use super::resnet::GroupNorm;
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;

/// Of the group norm before a transformer.
const GROUP_EPS: f64 = 1e-6;
/// Of the layer norms inside.
const LAYER_EPS: f64 = 1e-5;

#[derive(Debug, Clone)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self { weight: w.get(channels, "weight")?, bias: w.get(channels, "bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, Some((&self.weight, &self.bias)), LAYER_EPS)
    }

    /// `x + y`, and its norm.
    fn after(&self, x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let norm = ops::Norm::Layer { weight: &self.weight, bias: &self.bias };
        ops::residual_norm(x, None, y, norm, LAYER_EPS)
    }
}

/// The last dimension's `index`-th `width` channels as heads: a view.
fn heads(x: &Tensor, index: usize, width: usize, heads: usize) -> Result<Tensor> {
    let (batch, tokens, all) = x.dims3()?;
    x.reshape((batch, tokens, all / width, heads, width / heads))?.narrow(2, index, 1)?.squeeze(2)
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, out: &Linear) -> Result<Tensor> {
    let (batch, tokens, heads, dim) = q.dims4()?;
    let mixed = ops::attention(q, k, v, 1.0 / (dim as f64).sqrt(), None)?;
    out.forward(&mixed.reshape((batch, tokens, heads * dim))?)
}

/// Self-attention, attention to the text, gated feed forward.
#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out1: Linear,
    norm2: LayerNorm,
    q: Linear,
    kv: Linear,
    out2: Linear,
    norm3: LayerNorm,
    value_and_gate: Linear,
    down: Linear,
    channels: usize,
    heads: usize,
}

impl Block {
    fn new(channels: usize, heads: usize, text: usize, w: &Weights) -> Result<Self> {
        let (own, cross) = (w.pp("attn1"), w.pp("attn2"));
        let out = |w: &Weights| w.pp("to_out.0").linear(channels, channels, true);
        let inner = 4 * channels;
        Ok(Self {
            norm1: LayerNorm::new(channels, &w.pp("norm1"))?,
            qkv: own.fused_linear(
                channels,
                &[("to_q", channels), ("to_k", channels), ("to_v", channels)],
                false,
            )?,
            out1: out(&own)?,
            norm2: LayerNorm::new(channels, &w.pp("norm2"))?,
            q: cross.pp("to_q").linear(channels, channels, false)?,
            kv: cross.fused_linear(text, &[("to_k", channels), ("to_v", channels)], false)?,
            out2: out(&cross)?,
            norm3: LayerNorm::new(channels, &w.pp("norm3"))?,
            value_and_gate: w.pp("ff.net.0.proj").linear(channels, 2 * inner, true)?,
            down: w.pp("ff.net.2").linear(inner, channels, true)?,
            channels,
            heads,
        })
    }

    /// Keys and values of the text (batch, words, text channels), which are the same for all steps.
    fn read(&self, text: &Tensor) -> Result<Tensor> {
        self.kv.forward(text)
    }

    /// `kv` is what [`Block::read`] gave.
    fn forward(&self, x: &Tensor, kv: &Tensor) -> Result<Tensor> {
        let split = |x: &Tensor, index| heads(x, index, self.channels, self.heads);
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let seen = attend(&split(&qkv, 0)?, &split(&qkv, 1)?, &split(&qkv, 2)?, &self.out1)?;
        let (x, normed) = self.norm2.after(x, &seen)?;
        let q = self.q.forward(&normed)?;
        let read = attend(&split(&q, 0)?, &split(kv, 0)?, &split(kv, 1)?, &self.out2)?;
        let (x, normed) = self.norm3.after(&x, &read)?;
        let inner = ops::geglu(&self.value_and_gate.forward(&normed)?)?;
        self.down.forward_onto(&inner, &x)
    }
}

/// What all blocks of a net made of the text, in the order in which they run; handed from block to block.
pub(super) struct Read<'a>(std::slice::Iter<'a, Tensor>);

impl<'a> Read<'a> {
    pub(super) fn new(all: &'a [Tensor]) -> Self {
        Self(all.iter())
    }

    fn next(&mut self) -> Result<&'a Tensor> {
        match self.0.next() {
            Some(kv) => Ok(kv),
            None => {
                candle_core::bail!("SDXL: the text was read for fewer blocks than run; please report this")
            }
        }
    }
}

/// Positions as tokens through some blocks, added to what came in.
#[derive(Debug, Clone)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
}

impl Transformer {
    /// `text` is the channels of a text token.
    pub(super) fn new(
        channels: usize,
        (layers, heads): (usize, usize),
        text: usize,
        groups: usize,
        w: &Weights,
    ) -> Result<Self> {
        let block = |index: usize| Block::new(channels, heads, text, &w.pp("transformer_blocks").pp(index));
        Ok(Self {
            norm: GroupNorm::new(channels, groups, GROUP_EPS, &w.pp("norm"))?,
            proj_in: w.pp("proj_in").linear(channels, channels, true)?,
            blocks: (0..layers).map(block).collect::<Result<_>>()?,
            proj_out: w.pp("proj_out").linear(channels, channels, true)?,
        })
    }

    /// What the blocks make of `text` (batch, words, text channels), in their order: once a request.
    pub(super) fn read(&self, text: &Tensor, into: &mut Vec<Tensor>) -> Result<()> {
        for block in &self.blocks {
            into.push(block.read(text)?);
        }
        Ok(())
    }

    /// `x` (batch, channels, height, width); `text` stands at this transformer's first block.
    pub(super) fn forward(&self, x: &Tensor, text: &mut Read<'_>) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let mut tokens = self.proj_in.forward(&ops::tokens(&self.norm.plain(x)?)?)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, text.next()?)?;
        }
        ops::from_tokens(&self.proj_out.forward_onto(&tokens, &ops::tokens(x)?)?, height, width)
    }
}

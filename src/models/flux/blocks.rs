//! The two kinds of block. Keys are diffusers'; projections of the same input are stored as one matrix.

use candle_core::{DType, Module, Result, Tensor};

use super::attention::{EPS, QkNorm, Qkv};
use super::config::FluxConfig;
use crate::models::ops::{self, Linear, RopeTable};
use crate::models::weights::Weights;

/// Shift, scale and gate of one sub-layer, (batch, inner) each.
pub(super) struct Adaptation {
    pub(super) shift: Tensor,
    pub(super) scale: Tensor,
    pub(super) gate: Tensor,
}

/// What a double block applies to one stream: before and after attention, before and after the feed forward.
pub(super) struct StreamAdaptation {
    pub(super) attention: Adaptation,
    pub(super) feed_forward: Adaptation,
}

#[derive(Debug, Clone)]
struct FeedForward {
    up: Linear,
    down: Linear,
}

impl FeedForward {
    fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        Ok(Self {
            up: w.pp("net.0.proj").linear(config.inner(), config.mlp(), true)?,
            down: w.pp("net.2").linear(config.mlp(), config.inner(), true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::gelu_tanh(&self.up.forward(x)?)?)
    }
}

/// One stream's half of a double block.
#[derive(Debug, Clone)]
struct Stream {
    qkv: Linear,
    norm: QkNorm,
    out: Linear,
    feed_forward: FeedForward,
}

impl Stream {
    fn qkv(&self, x: &Tensor, by: &StreamAdaptation, heads: usize) -> Result<Qkv> {
        let x = ops::layer_norm_modulate(x, &by.attention.shift, &by.attention.scale, EPS)?;
        Qkv::project(&x, &self.qkv, &self.norm, heads)
    }

    fn finish(&self, x: &Tensor, attended: &Tensor, by: &StreamAdaptation) -> Result<Tensor> {
        let x = ops::gated_residual(x, &by.attention.gate, &self.out.forward(&attended.contiguous()?)?)?;
        let inner = ops::layer_norm_modulate(&x, &by.feed_forward.shift, &by.feed_forward.scale, EPS)?;
        ops::gated_residual(&x, &by.feed_forward.gate, &self.feed_forward.forward(&inner)?)
    }
}

/// Text and image with weights of their own, one attention over both, text first.
#[derive(Debug, Clone)]
pub struct DoubleBlock {
    image: Stream,
    text: Stream,
    heads: usize,
}

impl DoubleBlock {
    /// Reads `transformer_blocks.N`, without its two modulation layers.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        let inner = config.inner();
        let attn = w.pp("attn");
        let qkv = |names: [&str; 3]| attn.fused_linear(inner, &names.map(|name| (name, inner)), true);
        let norm = |q: &str, k: &str| -> Result<QkNorm> {
            Ok(QkNorm {
                q: attn.pp(q).get(config.attention_head_dim, "weight")?,
                k: attn.pp(k).get(config.attention_head_dim, "weight")?,
            })
        };
        Ok(Self {
            image: Stream {
                qkv: qkv(["to_q", "to_k", "to_v"])?,
                norm: norm("norm_q", "norm_k")?,
                out: attn.pp("to_out.0").linear(inner, inner, true)?,
                feed_forward: FeedForward::new(config, &w.pp("ff"))?,
            },
            text: Stream {
                qkv: qkv(["add_q_proj", "add_k_proj", "add_v_proj"])?,
                norm: norm("norm_added_q", "norm_added_k")?,
                out: attn.pp("to_add_out").linear(inner, inner, true)?,
                feed_forward: FeedForward::new(config, &w.pp("ff_context"))?,
            },
            heads: config.num_attention_heads,
        })
    }

    /// `(text, image)` (batch, tokens, inner) each, through the block.
    pub(super) fn forward(
        &self,
        (text, image): (&Tensor, &Tensor),
        (by_text, by_image): (&StreamAdaptation, &StreamAdaptation),
        rope: &RopeTable,
    ) -> Result<(Tensor, Tensor)> {
        let image_qkv = self.image.qkv(image, by_image, self.heads)?;
        let text_qkv = self.text.qkv(text, by_text, self.heads)?;
        let attended = Qkv::join(&text_qkv, &image_qkv)?.attend(rope)?;
        let words = text.dim(1)?;
        let image = self.image.finish(image, &attended.narrow(1, words, image.dim(1)?)?, by_image)?;
        let text = self.text.finish(text, &attended.narrow(1, 0, words)?, by_text)?;
        // diffusers clips the text stream only.
        Ok((clip(text)?, image))
    }
}

/// One stream of text and image together; attention and feed forward side by side.
#[derive(Debug, Clone)]
pub struct SingleBlock {
    /// Rows of q, k, v, then the feed forward's.
    fused: Linear,
    norm: QkNorm,
    out: Linear,
    heads: usize,
}

impl SingleBlock {
    /// Reads `single_transformer_blocks.N`, without its modulation layer.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        let (inner, mlp) = (config.inner(), config.mlp());
        let parts = [("attn.to_q", inner), ("attn.to_k", inner), ("attn.to_v", inner), ("proj_mlp", mlp)];
        Ok(Self {
            fused: w.fused_linear(inner, &parts, true)?,
            norm: QkNorm {
                q: w.pp("attn.norm_q").get(config.attention_head_dim, "weight")?,
                k: w.pp("attn.norm_k").get(config.attention_head_dim, "weight")?,
            },
            out: w.pp("proj_out").linear(inner + mlp, inner, true)?,
            heads: config.num_attention_heads,
        })
    }

    /// `x` (batch, text and image tokens, inner) through the block.
    pub(super) fn forward(&self, x: &Tensor, by: &Adaptation, rope: &RopeTable) -> Result<Tensor> {
        let inner = x.dim(2)?;
        let fused = self.fused.forward(&ops::layer_norm_modulate(x, &by.shift, &by.scale, EPS)?)?;
        let attended = Qkv::split(&fused, &self.norm, self.heads, inner)?.attend(rope)?;
        let mlp = fused.narrow(2, 3 * inner, fused.dim(2)? - 3 * inner)?.contiguous()?;
        let both = Tensor::cat(&[&attended, &ops::gelu_tanh(&mlp)?], 2)?;
        clip(ops::gated_residual(x, &by.gate, &self.out.forward(&both)?)?)
    }
}

/// In f16 activations overflow; diffusers clips them to the largest finite number.
fn clip(x: Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F16 { x.clamp(-65504f32, 65504f32) } else { Ok(x) }
}

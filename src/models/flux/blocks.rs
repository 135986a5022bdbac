//! The two kinds of block. Keys are diffusers'; projections of the same input are stored as one matrix.

use candle_core::{DType, Module, Result, Tensor};

use super::attention::{EPS, attend, attend_in_eight};
use super::config::FluxConfig;
use crate::models::ops::{self, Eight, Linear, Operand, QkNorm, RopeTable};
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

    fn forward(&self, x: &Operand) -> Result<Tensor> {
        self.down.forward(&self.up.forward_gelu(x)?)
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
    /// Writes q, k and v of `x` into the rows of `qkv` from token `at` on.
    fn project(&self, x: &Tensor, by: &StreamAdaptation, qkv: &Tensor, at: usize) -> Result<()> {
        let by = &by.attention;
        let x = ops::layer_norm_modulate_for(&self.qkv, x, &by.shift, &by.scale, EPS)?;
        self.qkv.forward_into(&x, qkv, 1, at)
    }

    fn finish(&self, x: &Tensor, attended: &Operand, by: &StreamAdaptation) -> Result<Tensor> {
        let (shift, scale) = (&by.feed_forward.shift, &by.feed_forward.scale);
        let sum = (x, &by.attention.gate, &self.out.forward_operand(attended)?);
        let (x, normed) = ops::residual_modulate_for(&self.feed_forward.up, sum, shift, scale, EPS)?;
        ops::gated_residual(&x, &by.feed_forward.gate, &self.feed_forward.forward(&normed)?)
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
        let (batch, words, inner) = text.dims3()?;
        let tokens = words + image.dim(1)?;
        let qkv = ops::buffer((batch, tokens, 3 * inner), image)?;
        self.text.project(text, by_text, &qkv, 0)?;
        self.image.project(image, by_image, &qkv, words)?;
        let norms = [&self.text.norm, &self.image.norm];
        let attended = if let Some(attended) = self.attend_in_eight(&qkv, words, norms, rope)? {
            attended
        } else {
            let all = ops::buffer((batch, tokens, inner), image)?;
            attend(&qkv, self.heads, words, norms, rope, &all)?;
            [all.narrow(1, 0, words)?, all.narrow(1, words, tokens - words)?].map(Operand::Dense)
        };
        let [of_text, of_image] = &attended;
        let image = self.image.finish(image, of_image, by_image)?;
        let text = self.text.finish(text, of_text, by_text)?;
        // diffusers clips the text stream only.
        Ok((clip(text)?, image))
    }

    /// Text's and image's shares, where both go on in 8 bits and the device attends in them.
    fn attend_in_eight(
        &self,
        qkv: &Tensor,
        words: usize,
        norms: [&QkNorm; 2],
        rope: &RopeTable,
    ) -> Result<Option<[Operand; 2]>> {
        if !self.text.out.reads_eight() || !self.image.out.reads_eight() {
            return Ok(None);
        }
        let Some(all) = attend_in_eight(qkv, self.heads, words, norms, rope)? else { return Ok(None) };
        let part = |from, count| {
            let part = all.narrow(1, from, count)?.contiguous()?;
            Eight::unscaled(part, qkv.dtype()).map(Operand::Eight)
        };
        Ok(Some([part(0, words)?, part(words, all.dim(1)? - words)?]))
    }
}

/// One stream of text and image together; attention and feed forward side by side.
#[derive(Debug, Clone)]
pub struct SingleBlock {
    qkv: Linear,
    norm: QkNorm,
    up: Linear,
    /// Reads the attention's columns, then the feed forward's.
    out: Linear,
    heads: usize,
    mlp: usize,
}

impl SingleBlock {
    /// Reads `single_transformer_blocks.N`, without its modulation layer.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        let (inner, mlp) = (config.inner(), config.mlp());
        let parts = [("attn.to_q", inner), ("attn.to_k", inner), ("attn.to_v", inner)];
        Ok(Self {
            qkv: w.fused_linear(inner, &parts, true)?,
            norm: QkNorm {
                q: w.pp("attn.norm_q").get(config.attention_head_dim, "weight")?,
                k: w.pp("attn.norm_k").get(config.attention_head_dim, "weight")?,
            },
            up: w.pp("proj_mlp").linear(inner, mlp, true)?,
            out: w.pp("proj_out").linear(inner + mlp, inner, true)?,
            heads: config.num_attention_heads,
            mlp,
        })
    }

    /// `x` (batch, text and image tokens, inner) through the block.
    pub(super) fn forward(&self, x: &Tensor, by: &Adaptation, rope: &RopeTable) -> Result<Tensor> {
        let (batch, tokens, inner) = x.dims3()?;
        let normed = ops::layer_norm_modulate_for(&self.qkv, x, &by.shift, &by.scale, EPS)?;
        let qkv = self.qkv.forward_operand(&normed)?;
        let norms = [&self.norm, &self.norm];
        let both = if let Some(both) = self.attend_in_eight(&qkv, &normed, norms, rope)? {
            Operand::Eight(both)
        } else {
            // Attention and feed forward write side by side what the last layer reads.
            let both = ops::buffer((batch, tokens, inner + self.mlp), x)?;
            self.up.forward_gelu_into(&normed, &both, 2, inner)?;
            attend(&qkv, self.heads, 0, norms, rope, &both)?;
            Operand::Dense(both)
        };
        clip(ops::gated_residual(x, &by.gate, &self.out.forward_operand(&both)?)?)
    }

    /// Attention and feed forward side by side, where the last layer reads 8 bits and the device attends in them.
    fn attend_in_eight(
        &self,
        qkv: &Tensor,
        normed: &Operand,
        norms: [&QkNorm; 2],
        rope: &RopeTable,
    ) -> Result<Option<Eight>> {
        if !self.out.reads_eight() {
            return Ok(None);
        }
        let Some(attended) = attend_in_eight(qkv, self.heads, 0, norms, rope)? else { return Ok(None) };
        Eight::beside(&attended, &self.up.forward_gelu(normed)?).map(Some)
    }
}

/// In f16 activations overflow; diffusers clips them to the largest finite number.
fn clip(x: Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F16 { x.clamp(-65504f32, 65504f32) } else { Ok(x) }
}

//! T5's encoder (T5-XXL v1.1 of FLUX), equal to transformers' `T5EncoderModel`.
//!
//! Padding is attended to, as FLUX's pipelines pass no mask. In f16 the layers' last matrices (`wo`) stay f32, as
//! transformers keeps them, so that the residual stream is f32 from the first layer on and does not overflow.

use candle_core::{DType, Module, Result, Tensor};
use serde::Deserialize;

use super::checked_length;
use crate::models::ops::{self, Linear, Norm};
use crate::models::weights::{Blocks, Weights};

/// `config.json` of the encoder. Only `gated-gelu` (v1.1) is known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct T5Config {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Channels.
    pub d_model: usize,
    /// Channels of a head.
    pub d_kv: usize,
    /// Channels inside the MLP.
    pub d_ff: usize,
    /// Layers.
    pub num_layers: usize,
    /// Heads; `num_heads * d_kv` need not be `d_model`.
    pub num_heads: usize,
    /// Learnt distances.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// From here on all distances are one.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// Of the norms.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    /// Form of the MLP.
    pub feed_forward_proj: FeedForward,
}

/// Forms of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum FeedForward {
    /// `gelu_tanh(x W0) * (x W1)`; transformers reads `gated-gelu` as the tanh form.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}

/// The encoder.
#[derive(Debug, Clone)]
pub struct T5Encoder {
    tokens: Tensor,
    /// (buckets, heads): learnt by the first layer, used by all.
    distances: Tensor,
    layers: Blocks<Layer>,
    final_norm: Tensor,
    eps: f64,
    max_distance: usize,
}

impl T5Encoder {
    /// Reads the encoder; the token table is `shared.weight`.
    ///
    /// # Errors
    /// Missing or mis-shaped tensors.
    pub fn new(config: &T5Config, w: &Weights) -> Result<Self> {
        if config.relative_attention_num_buckets < 4
            || config.relative_attention_max_distance <= config.relative_attention_num_buckets / 4
        {
            candle_core::bail!(
                "T5 config: relative_attention_num_buckets {} and relative_attention_max_distance {} leave no buckets",
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance
            );
        }
        let encoder = w.pp("encoder");
        Ok(Self {
            tokens: w.get((config.vocab_size, config.d_model), "shared.weight")?,
            distances: encoder.get(
                (config.relative_attention_num_buckets, config.num_heads),
                "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            )?,
            layers: Blocks::new(&encoder.pp("block"), config.num_layers, {
                let config = config.clone();
                move |w| Layer::new(&config, w)
            })?,
            final_norm: encoder.pp("final_layer_norm").get(config.d_model, "weight")?,
            eps: config.layer_norm_epsilon,
            max_distance: config.relative_attention_max_distance,
        })
    }

    /// Encodes prompts of equal length into (batch, tokens, d_model).
    ///
    /// # Errors
    /// Ids beyond the vocabulary, prompts of different length.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let length = checked_length("T5", ids, self.tokens.dim(0)?)?;
        let mut x = ops::embed(&self.tokens, ids)?;
        let bias = self.position_bias(length)?;
        // Each layer begins with its own norm instead of ending with the next one's, which may be on its way.
        for index in 0..self.layers.len() {
            x = self.layers.with(index, |layer| layer.forward(&x, &bias, self.eps))?;
        }
        ops::t5_norm(&x, &self.final_norm, self.eps)
    }

    /// (1, heads, queries, keys), added to the scores.
    fn position_bias(&self, length: usize) -> Result<Tensor> {
        let buckets = self.distances.dim(0)?;
        ops::relative_bias(&self.distances, length, |distance| bucket(distance, buckets, self.max_distance))
    }
}

/// The bucket of `distance` = key position - query position. Half of the buckets are for keys that follow; of each half,
/// half are single distances and the rest grow logarithmically up to `max_distance`.
pub fn bucket(distance: i64, buckets: usize, max_distance: usize) -> u32 {
    let half = buckets / 2;
    let exact = half / 2;
    let base = if distance > 0 { half } else { 0 };
    let length = distance.unsigned_abs() as usize;
    if length < exact {
        return (base + length) as u32;
    }
    // f32 throughout, as torch: the last bit decides at the borders.
    let growth = (length as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32
        * (half - exact) as f32;
    (base + (exact + growth as usize).min(half - 1)) as u32
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: Tensor,
    qkv: Linear,
    out: Linear,
    norm2: Tensor,
    gate_and_up: Linear,
    down: Linear,
    down_dtype: DType,
    heads: usize,
    head_dim: usize,
}

impl Layer {
    fn new(config: &T5Config, w: &Weights) -> Result<Self> {
        let (model, width, inner) = (config.d_model, config.num_heads * config.d_kv, config.d_ff);
        let w = w.pp("layer");
        let attention = w.pp("0.SelfAttention");
        let mlp = w.pp("1.DenseReluDense");
        let down_dtype = if w.dtype() == DType::F16 { DType::F32 } else { w.dtype() };
        Ok(Self {
            norm1: w.pp("0.layer_norm").get(model, "weight")?,
            qkv: attention.fused_linear(model, &[("q", width), ("k", width), ("v", width)], false)?,
            out: attention.pp("o").linear(width, model, false)?,
            norm2: w.pp("1.layer_norm").get(model, "weight")?,
            gate_and_up: mlp.fused_linear(model, &[("wi_0", inner), ("wi_1", inner)], false)?,
            down: mlp.to_dtype(down_dtype).pp("wo").linear(inner, model, false)?,
            down_dtype,
            heads: config.num_heads,
            head_dim: config.d_kv,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        let normed = ops::t5_norm(x, &self.norm1, eps)?;
        let width = self.heads * self.head_dim;
        let qkv = self.qkv.forward(&normed)?.reshape((batch, length, 3 * self.heads, self.head_dim))?;
        let part = |i: usize| qkv.narrow(2, i * self.heads, self.heads);
        // T5 does not scale its scores; the initialisation took the scale in.
        let mixed = ops::attention(&part(0)?, &part(1)?, &part(2)?, 1.0, Some(bias))?;
        let y = self.out.forward(&mixed.reshape((batch, length, width))?)?;
        let (x, normed) = residual_norm(x, &y, &self.norm2, eps)?;
        let inner = ops::gelu_tanh_gate(&self.gate_and_up.forward(&normed)?)?;
        let y = self.down.forward(&inner.to_dtype(self.down_dtype)?)?;
        clamped(add(&x, &y)?)
    }
}

/// `s = x + y` and its norm.
fn residual_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    // In f16 the sum may be wider than its parts, and it is guarded.
    if x.dtype() == DType::BF16 || weight.dtype() == DType::F32 {
        return ops::residual_norm(x, None, y, Norm::T5(weight), eps);
    }
    let x = clamped(add(x, y)?)?;
    let normed = ops::t5_norm(&x, weight, eps)?;
    Ok((x, normed))
}

/// The sum in the wider of the two dtypes.
fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dtype() == y.dtype() {
        return x + y;
    }
    x.to_dtype(DType::F32)? + y.to_dtype(DType::F32)?
}

/// transformers' guard for f16: once something is infinite, everything is held a little below the largest number.
fn clamped(x: Tensor) -> Result<Tensor> {
    if x.dtype() != DType::F16 {
        return Ok(x);
    }
    let highest = x.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
    if highest.is_infinite() { x.clamp(-64504f32, 64504f32) } else { Ok(x) }
}

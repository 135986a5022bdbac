//! T5's encoder (T5-XXL v1.1 of FLUX), equal to transformers' `T5EncoderModel`.
//!
//! Padding is attended to, as FLUX's pipelines pass no mask. In f16 the layers' last matrices (`wo`) stay f32, as
//! transformers keeps them, so that the residual stream is f32 from the first layer on and does not overflow.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use serde::Deserialize;

use super::id_tensor;
use crate::models::ops::{self, Linear};
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
    final_norm: Norm,
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
            final_norm: Norm::new(config, &encoder.pp("final_layer_norm"))?,
            max_distance: config.relative_attention_max_distance,
        })
    }

    /// Encodes prompts of equal length into (batch, tokens, d_model).
    ///
    /// # Errors
    /// Ids beyond the vocabulary, prompts of different length.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let table = id_tensor("T5", ids, self.tokens.dim(0)?, self.tokens.device())?;
        let (batch, length) = table.dims2()?;
        let mut x = self.tokens.index_select(&table.flatten_all()?, 0)?.reshape((batch, length, ()))?;
        let bias = self.position_bias(length)?;
        for index in 0..self.layers.len() {
            x = self.layers.with(index, |layer| layer.forward(&x, &bias))?;
        }
        self.final_norm.forward(&x)
    }

    /// (1, heads, queries, keys), added to the scores.
    fn position_bias(&self, length: usize) -> Result<Tensor> {
        let (buckets, heads) = self.distances.dims2()?;
        let table: Vec<u32> = (0..length as i64)
            .flat_map(|query| (0..length as i64).map(move |key| key - query))
            .map(|distance| bucket(distance, buckets, self.max_distance))
            .collect();
        let table =
            Tensor::from_vec(table, length * length, &Device::Cpu)?.to_device(self.distances.device())?;
        self.distances
            .index_select(&table, 0)?
            .reshape((length, length, heads))?
            .permute((2, 0, 1))?
            .unsqueeze(0)?
            .contiguous()
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

/// T5's norm: no mean, no bias, and in half precision one rounding before the weight and one after.
#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor,
    eps: f64,
}

impl Norm {
    fn new(config: &T5Config, w: &Weights) -> Result<Self> {
        Ok(Self { weight: w.get(config.d_model, "weight")?, eps: config.layer_norm_epsilon })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let inverse = (wide.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?.recip()?;
        wide.broadcast_mul(&inverse)?.to_dtype(self.weight.dtype())?.broadcast_mul(&self.weight)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    gate_and_up: Linear,
    down: Linear,
    down_dtype: DType,
    heads: usize,
    head_dim: usize,
    inner: usize,
}

impl Layer {
    fn new(config: &T5Config, w: &Weights) -> Result<Self> {
        let (model, width, inner) = (config.d_model, config.num_heads * config.d_kv, config.d_ff);
        let w = w.pp("layer");
        let attention = w.pp("0.SelfAttention");
        let mlp = w.pp("1.DenseReluDense");
        let down_dtype = if w.dtype() == DType::F16 { DType::F32 } else { w.dtype() };
        Ok(Self {
            norm1: Norm::new(config, &w.pp("0.layer_norm"))?,
            qkv: attention.fused_linear(model, &[("q", width), ("k", width), ("v", width)], false)?,
            out: attention.pp("o").linear(width, model, false)?,
            norm2: Norm::new(config, &w.pp("1.layer_norm"))?,
            gate_and_up: mlp.fused_linear(model, &[("wi_0", inner), ("wi_1", inner)], false)?,
            down: mlp.to_dtype(down_dtype).pp("wo").linear(inner, model, false)?,
            down_dtype,
            heads: config.num_heads,
            head_dim: config.d_kv,
            inner,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        let width = self.heads * self.head_dim;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let part = |i: usize| {
            qkv.narrow(D::Minus1, i * width, width)?.reshape((batch, length, self.heads, self.head_dim))
        };
        // T5 does not scale its scores; the initialisation took the scale in.
        let mixed = ops::attention(&part(0)?, &part(1)?, &part(2)?, 1.0, Some(bias))?;
        let x = clamped(add(x, &self.out.forward(&mixed.reshape((batch, length, width))?)?)?)?;

        let both = self.gate_and_up.forward(&self.norm2.forward(&x)?)?;
        let gate = ops::gelu_tanh(&both.narrow(D::Minus1, 0, self.inner)?.contiguous()?)?;
        let inner = (gate * both.narrow(D::Minus1, self.inner, self.inner)?)?;
        clamped(add(&x, &self.down.forward(&inner.to_dtype(self.down_dtype)?)?)?)
    }
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

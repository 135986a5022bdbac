//! CLIP's text tower (CLIP-L of FLUX and SDXL, bigG of SDXL), equal to transformers' `CLIPTextModel` and
//! `CLIPTextModelWithProjection`.
//!
//! Keys are transformers' without the `text_model.` prefix, which some files have; the checkpoint's opener removes it.

use candle_core::{IndexOp, Module, Result, Tensor};
use serde::Deserialize;

use super::checked_length;
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;

/// The formula between the two layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x σ(1.702 x)`: CLIP-L.
    QuickGelu,
    /// With the error function: bigG.
    Gelu,
    /// With tanh.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
}

impl Activation {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => ops::quick_gelu(x),
            Self::Gelu => ops::gelu_erf(x),
            Self::GeluNew => ops::gelu_tanh(x),
        }
    }
}

/// `config.json` of a text encoder; transformers' defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels inside the MLP.
    pub intermediate_size: usize,
    /// Channels of the projected pooled embedding.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// MLP activation.
    pub hidden_act: Activation,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
    /// See [`ClipText::forward`].
    pub eos_token_id: u32,
    /// Class names; one ending in `WithProjection` has a `text_projection`.
    pub architectures: Option<Vec<String>>,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
            architectures: None,
        }
    }
}

impl ClipConfig {
    /// Whether the checkpoint projects the pooled embedding (SDXL's second encoder).
    pub fn with_projection(&self) -> bool {
        self.architectures.iter().flatten().any(|name| name.ends_with("WithProjection"))
    }
}

/// What the encoder gives for a batch.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// The embeddings and each layer's output before the final norm, (batch, tokens, hidden): transformers' `hidden_states`.
    /// SDXL takes the last but one.
    pub hidden_states: Vec<Tensor>,
    /// The last layer's output after the final norm, (batch, tokens, hidden).
    pub last_hidden_state: Tensor,
    /// Its row at the end token, (batch, hidden). FLUX takes this.
    pub pooled: Tensor,
    /// `pooled` through `text_projection`, (batch, projection), where the checkpoint has one.
    pub text_embeds: Option<Tensor>,
}

impl ClipOutput {
    /// The output `skip + 1` layers before the last (`clip_skip` of diffusers' SDXL pipelines; 0 is their default).
    pub fn penultimate(&self, skip: usize) -> Option<&Tensor> {
        self.hidden_states.iter().rev().nth(skip + 1)
    }
}

/// The text tower.
#[derive(Debug, Clone)]
pub struct ClipText {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: Norm,
    projection: Option<Linear>,
    eos: u32,
}

impl ClipText {
    /// Reads the encoder.
    ///
    /// # Errors
    /// Missing or mis-shaped tensors; heads that do not divide the channels.
    pub fn new(config: &ClipConfig, w: &Weights) -> Result<Self> {
        let hidden = config.hidden_size;
        if config.num_attention_heads == 0 || !hidden.is_multiple_of(config.num_attention_heads) {
            candle_core::bail!(
                "CLIP config: {} heads do not divide hidden_size {hidden}",
                config.num_attention_heads
            );
        }
        let embeddings = w.pp("embeddings");
        Ok(Self {
            tokens: embeddings.get((config.vocab_size, hidden), "token_embedding.weight")?,
            positions: embeddings
                .get((config.max_position_embeddings, hidden), "position_embedding.weight")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::new(config, &w.pp("encoder.layers").pp(i)))
                .collect::<Result<_>>()?,
            final_norm: Norm::new(config, &w.pp("final_layer_norm"))?,
            projection: config
                .with_projection()
                .then(|| w.pp("text_projection").linear(hidden, config.projection_dim, false))
                .transpose()?,
            eos: config.eos_token_id,
        })
    }

    /// Encodes prompts of equal length.
    ///
    /// The pooled row is the one of the first `eos_token_id`; but where the config says 2 (files from before transformers
    /// fixed it, CLIP-L among them) that of the highest id, which is the end token in CLIP's vocabulary. Padding is not
    /// masked: the mask is causal only.
    ///
    /// # Errors
    /// Prompts longer than the position table, ids beyond the vocabulary.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<ClipOutput> {
        let length = checked_length("CLIP", ids, self.tokens.dim(0)?)?;
        let longest = self.positions.dim(0)?;
        if length > longest {
            candle_core::bail!("CLIP: {length} token ids, the encoder has positions for {longest}");
        }
        let embedded = ops::embed(&self.tokens, ids)?;
        let mut x = embedded.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        let mut hidden_states = vec![x.clone()];
        for layer in &self.layers {
            x = layer.forward(&x)?;
            hidden_states.push(x.clone());
        }
        let last_hidden_state = self.final_norm.forward(&x)?;
        let rows = ids
            .iter()
            .enumerate()
            .map(|(row, ids)| last_hidden_state.i((row, self.end_of(ids))))
            .collect::<Result<Vec<_>>>()?;
        let pooled = Tensor::stack(&rows, 0)?;
        let text_embeds = self.projection.as_ref().map(|layer| layer.forward(&pooled)).transpose()?;
        Ok(ClipOutput { hidden_states, last_hidden_state, pooled, text_embeds })
    }

    fn end_of(&self, ids: &[u32]) -> usize {
        let wanted = if self.eos == 2 { ids.iter().copied().max() } else { Some(self.eos) };
        // Without an end token torch's argmax over zeros gives the first row.
        ids.iter().position(|id| Some(*id) == wanted).unwrap_or(0)
    }
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    fn new(config: &ClipConfig, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.get(config.hidden_size, "weight")?,
            bias: w.get(config.hidden_size, "bias")?,
            eps: config.layer_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, Some((&self.weight, &self.bias)), self.eps)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    act: Activation,
    heads: usize,
}

impl Layer {
    fn new(config: &ClipConfig, w: &Weights) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = w.pp("self_attn");
        let parts = [("q_proj", hidden), ("k_proj", hidden), ("v_proj", hidden)];
        Ok(Self {
            norm1: Norm::new(config, &w.pp("layer_norm1"))?,
            qkv: attention.fused_linear(hidden, &parts, true)?,
            out: attention.pp("out_proj").linear(hidden, hidden, true)?,
            norm2: Norm::new(config, &w.pp("layer_norm2"))?,
            fc1: w.pp("mlp.fc1").linear(hidden, inner, true)?,
            fc2: w.pp("mlp.fc2").linear(inner, hidden, true)?,
            act: config.hidden_act,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, length, hidden) = x.dims3()?;
        let dim = hidden / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?.reshape((batch, length, 3 * self.heads, dim))?;
        let part = |i: usize| qkv.narrow(2, i * self.heads, self.heads);
        let scale = 1.0 / (dim as f64).sqrt();
        let mixed = ops::causal_attention(&part(0)?, &part(1)?, &part(2)?, scale)?;
        let y = self.out.forward(&mixed.reshape((batch, length, hidden))?)?;
        let norm = ops::Norm::Layer { weight: &self.norm2.weight, bias: &self.norm2.bias };
        let (x, normed) = ops::residual_norm(x, None, &y, norm, self.norm2.eps)?;
        let inner = self.act.apply(&self.fc1.forward(&normed)?)?;
        x + self.fc2.forward(&inner)?
    }
}

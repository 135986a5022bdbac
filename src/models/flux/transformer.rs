//! What runs every step: embedders, blocks, last projection.

use candle_core::{Device, Module, Result, Tensor};

use super::attention::EPS;
use super::blocks::{DoubleBlock, SingleBlock};
use super::conditioner::StepModulation;
use super::config::FluxConfig;
use crate::models::ops::{self, Linear, RopeTable};
use crate::models::weights::{Blocks, Weights};

/// Which block is about to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockId {
    /// `transformer_blocks.N`.
    Double(usize),
    /// `single_transformer_blocks.N`.
    Single(usize),
}

/// The transformer without its modulation layers.
#[derive(Debug, Clone)]
pub struct Transformer {
    config: FluxConfig,
    context_embedder: Linear,
    x_embedder: Linear,
    double: Blocks<DoubleBlock>,
    single: Blocks<SingleBlock>,
    proj_out: Linear,
}

impl Transformer {
    /// Reads from the root of a transformer's weights.
    ///
    /// # Errors
    /// A tensor is missing or has another shape; rotary channels that do not make up a head.
    pub fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        let inner = config.inner();
        let axes = config.axes_dims_rope;
        if axes.iter().sum::<usize>() != config.attention_head_dim || axes.iter().any(|dim| dim % 2 != 0) {
            candle_core::bail!(
                "axes_dims_rope {axes:?}: expected even numbers that sum to attention_head_dim {}",
                config.attention_head_dim
            );
        }
        let (double, single) = (config.clone(), config.clone());
        // Where the picture comes in and goes out 8 bits would show, and save nothing.
        let whole = w.in_eight(None);
        Ok(Self {
            context_embedder: whole.pp("context_embedder").linear(config.joint_attention_dim, inner, true)?,
            x_embedder: whole.pp("x_embedder").linear(config.in_channels, inner, true)?,
            double: Blocks::new(&w.pp("transformer_blocks"), config.num_layers, move |w| {
                DoubleBlock::new(&double, w)
            })?,
            single: Blocks::new(&w.pp("single_transformer_blocks"), config.num_single_layers, move |w| {
                SingleBlock::new(&single, w)
            })?,
            proj_out: whole.pp("proj_out").linear(inner, config.out(), true)?,
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &FluxConfig {
        &self.config
    }

    /// The rotary table of `words` text tokens and an image of `rows` x `columns` packed tokens. Once a request.
    ///
    /// # Errors
    /// No room on the device.
    pub fn rope(&self, words: usize, rows: usize, columns: usize, device: &Device) -> Result<RopeTable> {
        RopeTable::new(&positions(words, rows, columns), &self.config.axes_dims_rope, 10000.0, device)
    }

    /// Predicts the velocity of `image` (batch, image tokens, in channels) given `text` (batch, words, T5 channels):
    /// (batch, image tokens, out channels). `before` is asked before each block and may stop the run.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device, or what `before` returns.
    pub fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        modulation: StepModulation<'_>,
        rope: &RopeTable,
        before: &mut dyn FnMut(BlockId) -> Result<()>,
    ) -> Result<Tensor> {
        let mut image = self.x_embedder.forward(image)?;
        let mut text = self.context_embedder.forward(text)?;
        for index in 0..self.double.len() {
            before(BlockId::Double(index))?;
            let (by_text, by_image) = modulation.double(index)?;
            (text, image) = self
                .double
                .with(index, |block| block.forward((&text, &image), (&by_text, &by_image), rope))?;
        }
        let words = text.dim(1)?;
        let mut both = ops::join_tokens(&text, &image)?;
        for index in 0..self.single.len() {
            before(BlockId::Single(index))?;
            let by = modulation.single(index)?;
            both = self.single.with(index, |block| block.forward(&both, &by, rope))?;
        }
        let image = both.narrow(1, words, both.dim(1)? - words)?;
        let (shift, scale) = modulation.last()?;
        self.proj_out.forward(&ops::layer_norm_modulate(&image, &shift, &scale, EPS)?)
    }
}

/// Ids of all tokens, text first: text stands at the origin, image tokens at (0, row, column).
pub fn positions(words: usize, rows: usize, columns: usize) -> Vec<[f64; 3]> {
    let image = (0..rows).flat_map(|row| (0..columns).map(move |column| [0.0, row as f64, column as f64]));
    std::iter::repeat_n([0.0; 3], words).chain(image).collect()
}

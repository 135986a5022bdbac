//! Attention inside windows, with a learnt bias for each distance between two tokens.
//!
//! In a moved grid the last row and column of windows hold tokens from opposite borders, which must not see each other.
//! Which ones depends on the window's place only (inside, right border, lower border, corner), so windows go through by
//! kind and no mask is ever made for all of them. On a card one kernel reads the windows where they lie in the map.

use std::ops::Range;

use candle_core::{Device, Module, Result, Tensor};

use super::window::Grid;
use crate::models::device::send;
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;

#[derive(Debug, Clone)]
pub(super) struct WindowAttention {
    qkv: Linear,
    proj: Linear,
    /// ((2 window - 1)², heads): one row a distance, row distances slowest.
    bias_table: Tensor,
    heads: usize,
    window: usize,
    shift: usize,
}

impl WindowAttention {
    pub(super) fn new(
        channels: usize,
        heads: usize,
        window: usize,
        shift: usize,
        w: &Weights,
    ) -> Result<Self> {
        let distances = (2 * window - 1) * (2 * window - 1);
        Ok(Self {
            qkv: w.pp("qkv").linear(channels, 3 * channels, true)?,
            proj: w.pp("proj").linear(channels, channels, true)?,
            bias_table: w.get((distances, heads), "relative_position_bias_table")?,
            heads,
            window,
            shift,
        })
    }

    /// `x` (batch, height, width, channels), any size.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Self { heads, window: edge, shift, .. } = *self;
        let windows = Windows { edge, shift, heads };
        let qkv = self.qkv.forward(x)?;
        self.proj.forward(&window_attention(&qkv, self.qkv.bias(), &self.bias_table, windows)?)
    }
}

/// How a map is cut.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Tokens along a window's edge.
    pub edge: usize,
    /// How far up and left the map is moved first.
    pub shift: usize,
    /// Heads of attention.
    pub heads: usize,
}

/// Attention inside the windows of `qkv` (batch, height, width, 3 channels), with `table` ((2 edge - 1)², heads):
/// (batch, height, width, channels). The map is filled up to whole windows with what the projection makes of zeros: its
/// `bias` (3 channels).
///
/// # Errors
/// Shapes that do not match.
pub fn window_attention(
    qkv: &Tensor,
    bias: Option<&Tensor>,
    table: &Tensor,
    windows: Windows,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (true, Some(bias)) = (qkv.device().is_cuda(), bias) {
        use crate::cuda::window_attention as kernel;
        let Windows { edge, shift, heads } = windows;
        let cut = kernel::Windows { edge, shift, heads };
        if kernel::takes(qkv, cut) {
            return kernel::window_attention(qkv, bias, table, cut);
        }
    }
    let grid = Grid::new(qkv, windows.edge, windows.shift)?;
    let cut = grid.cut(qkv, bias)?;
    let (_, rows, columns, _, _) = cut.dims5()?;
    let bias = windows.bias(table)?;
    let attended = if windows.shift == 0 {
        windows.attend(&cut, 0..rows, 0..columns, &bias)?
    } else {
        let mut bands = Vec::with_capacity(2);
        for (lower, band) in [(false, 0..rows - 1), (true, rows - 1..rows)] {
            let mut parts = Vec::with_capacity(2);
            for (right, part) in [(false, 0..columns - 1), (true, columns - 1..columns)] {
                if !band.is_empty() && !part.is_empty() {
                    let bias = bias.broadcast_add(&windows.border(lower, right, &bias)?)?;
                    parts.push(windows.attend(&cut, band.clone(), part, &bias)?);
                }
            }
            if !parts.is_empty() {
                bands.push(Tensor::cat(&parts, 2)?);
            }
        }
        Tensor::cat(&bands, 1)?
    };
    grid.join(&attended)
}

impl Windows {
    /// The windows of a rectangle of the grid, which share their bias (1, heads, tokens, tokens).
    fn attend(
        self,
        qkv: &Tensor,
        rows: Range<usize>,
        columns: Range<usize>,
        bias: &Tensor,
    ) -> Result<Tensor> {
        let (batch, _, _, tokens, wide) = qkv.dims5()?;
        let (rows, first_row) = (rows.len(), rows.start);
        let (columns, first_column) = (columns.len(), columns.start);
        let channels = wide / 3;
        let head = channels / self.heads;
        let part = qkv
            .narrow(1, first_row, rows)?
            .narrow(2, first_column, columns)?
            .contiguous()?
            .reshape((batch * rows * columns, tokens, 3, self.heads, head))?;
        let of = |index: usize| part.narrow(2, index, 1)?.squeeze(2);
        let scale = (head as f64).powf(-0.5);
        ops::attention(&of(0)?, &of(1)?, &of(2)?, scale, Some(bias))?
            .reshape((batch, rows, columns, tokens, channels))
    }

    /// (1, heads, tokens, tokens) of `table`.
    fn bias(self, table: &Tensor) -> Result<Tensor> {
        let tokens = self.edge * self.edge;
        let index = Tensor::from_vec(distances(self.edge), tokens * tokens, &Device::Cpu)?;
        let index = send(&index, table.device())?;
        table
            .index_select(&index, 0)?
            .reshape((1, tokens, tokens, self.heads))?
            .permute((0, 3, 1, 2))?
            .contiguous()
    }

    /// (1, 1, tokens, tokens) like `like`: 0 where a token may see another, else -inf. Older releases added -100 instead,
    /// which softmax turns into the same 0 unless a hidden score stands more than 80 above all seen ones.
    fn border(self, lower: bool, right: bool, like: &Tensor) -> Result<Tensor> {
        let (window, tokens) = (self.edge, self.edge * self.edge);
        let kept = window - self.shift;
        let side = |token: usize| (lower && token / window >= kept, right && token % window >= kept);
        let mask: Vec<f32> = (0..tokens * tokens)
            .map(|pair| if side(pair / tokens) == side(pair % tokens) { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        send(&Tensor::from_vec(mask, (1, 1, tokens, tokens), &Device::Cpu)?, like.device())?
            .to_dtype(like.dtype())
    }
}

/// Row of the bias table for every (query, key). Checkpoints hold this as `relative_position_index`.
pub(in super::super) fn distances(window: usize) -> Vec<u32> {
    let tokens = window * window;
    let pair = |pair: usize| {
        let (query, key) = (pair / tokens, pair % tokens);
        let rows = query / window + window - 1 - key / window;
        let columns = query % window + window - 1 - key % window;
        (rows * (2 * window - 1) + columns) as u32
    };
    (0..tokens * tokens).map(pair).collect()
}

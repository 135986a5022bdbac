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
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            use crate::cuda::window_attention::{Windows, takes, window_attention};
            let windows = Windows { edge: self.window, shift: self.shift, heads: self.heads };
            let qkv = self.qkv.forward(x)?;
            if let (Some(bias), true) = (self.qkv.bias(), takes(&qkv, windows)) {
                return self.proj.forward(&window_attention(&qkv, bias, &self.bias_table, windows)?);
            }
        }
        let grid = Grid::new(x, self.window, self.shift)?;
        grid.join(&self.in_windows(&grid.cut(x)?)?)
    }

    /// `x` (batch, window rows, window columns, tokens, channels).
    fn in_windows(&self, x: &Tensor) -> Result<Tensor> {
        let (_, rows, columns, _, _) = x.dims5()?;
        let qkv = self.qkv.forward(x)?;
        let bias = self.bias(x.device())?;
        let attended = if self.shift == 0 {
            self.attend(&qkv, 0..rows, 0..columns, &bias)?
        } else {
            let mut bands = Vec::with_capacity(2);
            for (lower, band) in [(false, 0..rows - 1), (true, rows - 1..rows)] {
                let mut parts = Vec::with_capacity(2);
                for (right, part) in [(false, 0..columns - 1), (true, columns - 1..columns)] {
                    if !band.is_empty() && !part.is_empty() {
                        let bias = bias.broadcast_add(&self.border(lower, right, &bias)?)?;
                        parts.push(self.attend(&qkv, band.clone(), part, &bias)?);
                    }
                }
                if !parts.is_empty() {
                    bands.push(Tensor::cat(&parts, 2)?);
                }
            }
            Tensor::cat(&bands, 1)?
        };
        self.proj.forward(&attended)
    }

    /// The windows of a rectangle of the grid, which share their bias (1, heads, tokens, tokens).
    fn attend(
        &self,
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

    /// (1, heads, tokens, tokens).
    fn bias(&self, device: &Device) -> Result<Tensor> {
        let tokens = self.window * self.window;
        let index = send(&Tensor::from_vec(distances(self.window), tokens * tokens, &Device::Cpu)?, device)?;
        self.bias_table
            .index_select(&index, 0)?
            .reshape((1, tokens, tokens, self.heads))?
            .permute((0, 3, 1, 2))?
            .contiguous()
    }

    /// (1, 1, tokens, tokens) like `like`: 0 where a token may see another, else -inf. Older releases added -100 instead,
    /// which softmax turns into the same 0 unless a hidden score stands more than 80 above all seen ones.
    fn border(&self, lower: bool, right: bool, like: &Tensor) -> Result<Tensor> {
        let (window, tokens) = (self.window, self.window * self.window);
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

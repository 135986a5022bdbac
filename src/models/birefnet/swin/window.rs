//! A map cut into square windows, and put together again.

use candle_core::{Result, Tensor};

/// How a map of one size is cut: filled up at the bottom and right to whole windows, moved up and left by `shift`.
pub(super) struct Grid {
    height: usize,
    width: usize,
    window: usize,
    shift: usize,
}

impl Grid {
    pub(super) fn new(x: &Tensor, window: usize, shift: usize) -> Result<Self> {
        let (_, height, width, _) = x.dims4()?;
        Ok(Self { height, width, window, shift })
    }

    fn rows(&self) -> usize {
        self.height.div_ceil(self.window)
    }

    fn columns(&self) -> usize {
        self.width.div_ceil(self.window)
    }

    /// (batch, height, width, channels) -> (batch, window rows, window columns, tokens, channels). Filled up with `filling`
    /// (channels), or zeros.
    pub(super) fn cut(&self, x: &Tensor, filling: Option<&Tensor>) -> Result<Tensor> {
        let (batch, _, _, channels) = x.dims4()?;
        let (rows, columns, window) = (self.rows(), self.columns(), self.window);
        let mut x = fill_up(x, 1, rows * window - self.height, filling)?;
        x = fill_up(&x, 2, columns * window - self.width, filling)?;
        if self.shift > 0 {
            x = x.roll(-(self.shift as i32), 1)?.roll(-(self.shift as i32), 2)?;
        }
        x.reshape((batch, rows, window, columns, window, channels))?
            .permute((0, 1, 3, 2, 4, 5))?
            .contiguous()?
            .reshape((batch, rows, columns, window * window, channels))
    }

    /// The inverse of [`Grid::cut`]; padding falls away.
    pub(super) fn join(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, rows, columns, _, channels) = x.dims5()?;
        let window = self.window;
        let mut x = x
            .reshape((batch, rows, columns, window, window, channels))?
            .permute((0, 1, 3, 2, 4, 5))?
            .contiguous()?
            .reshape((batch, rows * window, columns * window, channels))?;
        if self.shift > 0 {
            x = x.roll(self.shift as i32, 1)?.roll(self.shift as i32, 2)?;
        }
        x.narrow(1, 0, self.height)?.narrow(2, 0, self.width)?.contiguous()
    }
}

/// `x` (…, channels) with `count` times more of `filling` behind dimension `dim`.
fn fill_up(x: &Tensor, dim: usize, count: usize, filling: Option<&Tensor>) -> Result<Tensor> {
    let Some(filling) = filling.filter(|_| count > 0) else { return x.pad_with_zeros(dim, 0, count) };
    let mut shape = x.dims().to_vec();
    if let Some(length) = shape.get_mut(dim) {
        *length = count;
    }
    Tensor::cat(&[x, &filling.broadcast_as(shape)?.contiguous()?], dim)
}

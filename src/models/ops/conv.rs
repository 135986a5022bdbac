//! A convolution that accumulates in f32, as torch's do, in bounded memory. On a card cuDNN does it, channels last.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

use super::Linear;
use crate::models::weights::Weights;

/// Elements of the spread-out input that a convolution may hold: 256 MiB of f32.
const UNFOLDED: usize = 1 << 26;

/// A square two-dimensional convolution with a bias, on (batch, channels, height, width).
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    config: Conv2dConfig,
}

impl Conv {
    /// A square kernel of edge `size`; `weight` (outputs, inputs, size, size), `bias` (outputs).
    ///
    /// # Errors
    /// Missing or mis-shaped tensors.
    pub fn new(
        inputs: usize,
        outputs: usize,
        size: usize,
        stride: usize,
        padding: usize,
        w: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            weight: w.get_kernel((outputs, inputs, size, size), "weight")?,
            bias: w.get(outputs, "bias")?,
            config: Conv2dConfig { padding, stride, ..Conv2dConfig::default() },
        })
    }

    /// From `weight` (outputs, inputs, size, size), which lies channels last on a card, and `bias` (outputs).
    pub fn from_tensors(weight: Tensor, bias: Tensor, stride: usize, padding: usize) -> Self {
        Self { weight, bias, config: Conv2dConfig { padding, stride, ..Conv2dConfig::default() } }
    }

    /// In `x`'s dtype, rounded once.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Conv2dConfig { padding, stride, .. } = self.config;
        match conv_on_card(x, &self.weight, Some(&self.bias), stride, (padding, padding))? {
            Some(y) => Ok(y),
            None => self.forward_within(x, UNFOLDED),
        }
    }

    /// `residual + y`, residual of y's shape. torch rounds y first; a card does not where the kernel is 1 x 1, which is a
    /// matrix product.
    ///
    /// # Errors
    /// As [`Conv::forward`].
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (outputs, inputs, size, _) = self.weight.dims4()?;
        let Conv2dConfig { padding, stride, .. } = self.config;
        if x.device().is_cpu() || (size, stride, padding) != (1, 1, 0) {
            return super::add(residual, &self.forward(x)?);
        }
        let (_, _, height, width) = x.dims4()?;
        let matrix = self.weight.permute((0, 2, 3, 1))?.reshape((outputs, inputs))?;
        let linear = Linear::dense(matrix, Some(self.bias.clone()));
        super::from_tokens(
            &linear.forward_onto(&super::tokens(x)?, &super::tokens(residual)?)?,
            height,
            width,
        )
    }

    /// [`Conv::forward`] of `x` with a row and a column of zeros more, below and to the right.
    ///
    /// # Errors
    /// As [`Conv::forward`].
    pub fn forward_grown(&self, x: &Tensor) -> Result<Tensor> {
        let Conv2dConfig { padding, stride, .. } = self.config;
        match conv_on_card(x, &self.weight, Some(&self.bias), stride, (padding, padding + 1))? {
            Some(y) => Ok(y),
            None => self.forward(&x.pad_with_zeros(3, 0, 1)?.pad_with_zeros(2, 0, 1)?),
        }
    }

    /// [`Conv::forward`] with room for `unfolded` elements of the input spread out by kernel: candle writes every output's
    /// whole window down before it multiplies, which at 1024 x 1024 pixels and 256 channels would be 10 GB. More than
    /// that goes through in stripes of output rows.
    ///
    /// # Errors
    /// As [`Conv::forward`].
    pub fn forward_within(&self, x: &Tensor, unfolded: usize) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let (_, _, size, _) = self.weight.dims4()?;
        let Conv2dConfig { padding, stride, .. } = self.config;
        let length = |side: usize| (side + 2 * padding).checked_sub(size).map_or(0, |rest| rest / stride + 1);
        let (rows, row) = (length(height), length(width) * channels * size * size);
        if size == 1 || batch * rows * row <= unfolded {
            return self.whole(x, self.config);
        }
        let stripe = (unfolded / row.max(1)).max(1);
        let unpadded = Conv2dConfig { padding: 0, ..self.config };
        let mut pictures = Vec::with_capacity(batch);
        for index in 0..batch {
            let x = x.narrow(0, index, 1)?;
            let mut parts = Vec::with_capacity(rows.div_ceil(stripe));
            for first in (0..rows).step_by(stripe) {
                let count = stripe.min(rows - first);
                // Input rows in the padded picture, then in the picture.
                let (top, end) = (first * stride, (first + count - 1) * stride + size);
                let (from, to) = (top.max(padding) - padding, (end.max(padding) - padding).min(height));
                let above = padding.saturating_sub(top);
                let part = x.narrow(2, from, to - from)?;
                let part = part.pad_with_zeros(2, above, end - top - above - (to - from))?;
                let part = part.pad_with_zeros(3, padding, padding)?.contiguous()?;
                parts.push(self.whole(&part, unpadded)?);
            }
            pictures.push(Tensor::cat(&parts, 2)?);
        }
        Tensor::cat(&pictures, 0)
    }

    fn whole(&self, x: &Tensor, config: Conv2dConfig) -> Result<Tensor> {
        // candle sums f16 convolutions in f16, which overflows and loses bits, and has no bf16 product on a CPU.
        let widen = x.dtype() == DType::F16 || (x.device().is_cpu() && x.dtype() != DType::F32);
        if widen {
            let wide = |x: &Tensor| x.to_dtype(DType::F32);
            let conv = Conv2d::new(wide(&self.weight)?, Some(wide(&self.bias)?), config);
            return conv.forward(&wide(x)?)?.to_dtype(x.dtype());
        }
        Conv2d::new(self.weight.clone(), Some(self.bias.clone()), config).forward(x)
    }
}

/// A convolution with a square kernel where `x` lies on a card that has cuDNN, else `None`: `before` zeros above and left,
/// `after` below and right. Sums in f32, rounded once, after the bias; channels last.
///
/// # Errors
/// Shapes that do not match, no room on the card.
#[cfg_attr(
    not(feature = "cuda"),
    allow(clippy::unnecessary_wraps, unused_variables, reason = "only a card can fail")
)]
pub fn conv_on_card(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    (before, after): (usize, usize),
) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let (outputs, inputs, size, _) = weight.dims4()?;
        if size == 1 && stride == 1 && before == 0 && after == 0 {
            // A matrix product; cuDNN takes 0.1 s to choose a plan for it.
            let (_, _, height, width) = x.dims4()?;
            let matrix = weight.permute((0, 2, 3, 1))?.reshape((outputs, inputs))?;
            let y = Linear::dense(matrix, bias.cloned()).forward(&super::tokens(x)?)?;
            return super::from_tokens(&y, height, width).map(Some);
        }
        if crate::cuda::conv::available() {
            let steps = crate::cuda::conv::Steps { stride, before, after };
            return crate::cuda::conv::conv2d(x, weight, bias, steps).map(Some);
        }
    }
    Ok(None)
}

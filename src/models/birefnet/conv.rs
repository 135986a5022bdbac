//! Convolutions whose column buffer stays small, and inference batch norms.
//!
//! candle unfolds a convolution's whole input before one matrix product: 2.4 GB for the 3 x 3 layer over the 1024 x 1024
//! picture. Here output rows go through in stripes; on a card cuDNN needs no columns at all. Must not know the net.

use candle_core::{DType, Result, Tensor};

use crate::models::ops::conv_on_card;
use crate::models::weights::Weights;

/// Largest column buffer in elements: 64 MiB in f16.
pub const COLUMNS: usize = 1 << 25;

/// A square convolution of stride 1 that keeps the size.
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv {
    /// `weight` (outputs, inputs, kernel, kernel) and `bias` (outputs) right below `w`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, bias: bool, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.get_kernel((outputs, inputs, kernel, kernel), "weight")?,
            bias: if bias { Some(w.get(outputs, "bias")?) } else { None },
        })
    }

    /// (outputs, inputs, kernel, kernel).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// (outputs).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `x` (batch, inputs, height, width) -> (batch, outputs, height, width).
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        conv2d(x, &self.weight, self.bias.as_ref(), COLUMNS)
    }
}

/// Convolution with a square kernel of odd edge, padded with zeros so that the size stays; at most `columns` elements are
/// unfolded at once. Sums in f32, rounded once.
///
/// # Errors
/// Another number of channels; an even kernel.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, columns: usize) -> Result<Tensor> {
    // candle's half-precision products on a CPU sum in half precision.
    if x.device().is_cpu() && x.dtype() != DType::F32 {
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let bias = bias.map(wide).transpose()?;
        return conv2d(&wide(x)?, &wide(weight)?, bias.as_ref(), columns)?.to_dtype(x.dtype());
    }
    let (batch, inputs, height, width) = x.dims4()?;
    let (outputs, _, kernel, _) = weight.dims4()?;
    if kernel.is_multiple_of(2) {
        candle_core::bail!("convolution with an even kernel of {kernel}: the size would change");
    }
    if let Some(y) = conv_on_card(x, weight, bias, 1, (kernel / 2, kernel / 2))? {
        return Ok(y);
    }
    let y = if kernel == 1 {
        // Nothing to unfold.
        weight
            .reshape((outputs, inputs))?
            .broadcast_matmul(&x.contiguous()?.flatten_from(2)?)?
            .reshape((batch, outputs, height, width))?
    } else {
        let rows = (columns / (batch * inputs * kernel * kernel * width).max(1)).max(1);
        let margin = kernel / 2;
        if rows >= height {
            x.conv2d(weight, margin, 1, 1, 1)?
        } else {
            let padded = x.pad_with_zeros(2, margin, margin)?.pad_with_zeros(3, margin, margin)?;
            let stripe = |start: usize| {
                let count = rows.min(height - start);
                padded.narrow(2, start, count + 2 * margin)?.contiguous()?.conv2d(weight, 0, 1, 1, 1)
            };
            Tensor::cat(&(0..height).step_by(rows).map(stripe).collect::<Result<Vec<_>>>()?, 2)?
        }
    };
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, outputs, 1, 1))?),
        None => Ok(y),
    }
}

/// Batch norm with the statistics of training: `(x - mean) / √(var + 1e-5) · weight + bias` for each channel.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl BatchNorm {
    /// The four tensors right below `w`, kept in f32 whatever the compute dtype, as torch's kernels use them.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        let w = w.to_dtype(DType::F32);
        Ok(Self {
            weight: w.get(channels, "weight")?,
            bias: w.get(channels, "bias")?,
            mean: w.get(channels, "running_mean")?,
            variance: w.get(channels, "running_var")?,
        })
    }

    /// From weight, bias, mean and variance, (channels) f32 each.
    pub fn from_tensors([weight, bias, mean, variance]: [Tensor; 4]) -> Self {
        Self { weight, bias, mean, variance }
    }

    /// `x` (batch, channels, …). One multiplication and one addition in f32, rounded once.
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false)
    }

    fn apply(&self, x: &Tensor, relu: bool) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() && x.rank() == 4 {
            let statistics = [&self.weight, &self.bias, &self.mean, &self.variance];
            return crate::cuda::picture::batch_norm(x, statistics, relu);
        }
        let scale = (&self.weight / (&self.variance + 1e-5)?.sqrt()?)?;
        let shift = (&self.bias - (&self.mean * &scale)?)?;
        let mut each = vec![1; x.rank()];
        if let Some(channels) = each.get_mut(1) {
            *channels = x.dim(1)?;
        }
        let y = x
            .to_dtype(DType::F32)?
            .broadcast_mul(&scale.reshape(each.clone())?)?
            .broadcast_add(&shift.reshape(each)?)?
            .to_dtype(x.dtype())?;
        if relu { y.relu() } else { Ok(y) }
    }

    /// [`BatchNorm::forward`], then negative values to 0.
    ///
    /// # Errors
    /// As [`BatchNorm::forward`].
    pub fn relu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true)
    }
}

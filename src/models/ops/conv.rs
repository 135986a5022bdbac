//! A convolution that accumulates in f32, as torch's do.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, Module};

use crate::models::weights::Weights;

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
            weight: w.get((outputs, inputs, size, size), "weight")?,
            bias: w.get(outputs, "bias")?,
            config: Conv2dConfig { padding, stride, ..Conv2dConfig::default() },
        })
    }

    /// In `x`'s dtype, rounded once.
    ///
    /// # Errors
    /// Shapes that do not match, no room on the device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // candle sums f16 convolutions in f16, which overflows and loses bits, and has no bf16 product on a CPU.
        let widen = x.dtype() == DType::F16 || (x.device().is_cpu() && x.dtype() != DType::F32);
        if widen {
            let wide = |x: &Tensor| x.to_dtype(DType::F32);
            let conv = Conv2d::new(wide(&self.weight)?, Some(wide(&self.bias)?), self.config);
            return conv.forward(&wide(x)?)?.to_dtype(x.dtype());
        }
        Conv2d::new(self.weight.clone(), Some(self.bias.clone()), self.config).forward(x)
    }
}

//! `y = x Wᵀ + b`, dense or with the weights kept in GGML blocks.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Module, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::linear as kernel;

/// A linear layer. `weight` is (out, in), `bias` (out).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
enum Matrix {
    Dense(Tensor),
    Quantised(QMatMul),
}

impl Linear {
    /// From tensors in the compute dtype.
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Matrix::Dense(weight), bias }
    }

    /// From blocks; they are multiplied as they are.
    ///
    /// # Errors
    /// The device has no room.
    pub fn quantised(weight: QTensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Matrix::Quantised(QMatMul::from_arc(Arc::new(weight))?), bias })
    }

    /// (out).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `gelu_tanh(y)`. torch rounds y first; a card's kernel does not.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Matrix::Dense(weight) = &self.weight {
            let gelu = kernel::Epilogue::GeluTanh;
            if let Some(y) = kernel::linear(x, weight, self.bias.as_ref(), gelu)? {
                return Ok(y);
            }
        }
        super::gelu_tanh(&self.forward(x)?)
    }

    /// [`Linear::forward`] written into `buffer` (contiguous) from index `at` of dimension `dim` on; the other dimensions
    /// are the result's.
    ///
    /// # Errors
    /// As [`Linear::forward`], or the result does not fit.
    pub fn forward_into(&self, x: &Tensor, buffer: &Tensor, dim: usize, at: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.writes(x, false, buffer, dim, at)? {
            return Ok(());
        }
        buffer.slice_set(&self.forward(x)?, dim, at)
    }

    /// [`Linear::forward_gelu`] written as by [`Linear::forward_into`].
    ///
    /// # Errors
    /// As [`Linear::forward_into`].
    pub fn forward_gelu_into(&self, x: &Tensor, buffer: &Tensor, dim: usize, at: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.writes(x, true, buffer, dim, at)? {
            return Ok(());
        }
        buffer.slice_set(&self.forward_gelu(x)?, dim, at)
    }

    #[cfg(feature = "cuda")]
    fn writes(&self, x: &Tensor, gelu: bool, buffer: &Tensor, dim: usize, at: usize) -> Result<bool> {
        let Matrix::Dense(weight) = &self.weight else { return Ok(false) };
        let epilogue = if gelu { kernel::Epilogue::GeluTanh } else { kernel::Epilogue::None };
        let length = if dim + 1 == buffer.rank() { weight.dim(0)? } else { x.dim(dim)? };
        kernel::linear_into(x, weight, self.bias.as_ref(), epilogue, &buffer.narrow(dim, at, length)?)
    }

    fn widened(&self) -> Result<Self> {
        let weight = match &self.weight {
            Matrix::Dense(weight) => Matrix::Dense(weight.to_dtype(DType::F32)?),
            quantised @ Matrix::Quantised(_) => quantised.clone(),
        };
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        Ok(Self { weight, bias })
    }
}

impl Module for Linear {
    /// `x`: (…, in) -> (…, out) in `x`'s dtype. torch accumulates in f32 and rounds once, after the bias.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Matrix::Dense(weight) = &self.weight
            && let Some(y) = kernel::linear(x, weight, self.bias.as_ref(), kernel::Epilogue::None)?
        {
            return Ok(y);
        }
        // candle has no bf16 product on a CPU; through f32 it rounds where torch does.
        if x.device().is_cpu() && x.dtype() != DType::F32 {
            return self.widened()?.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
        }
        let y = match &self.weight {
            Matrix::Dense(weight) => {
                // One large product instead of a batch of small ones: rows are rows, whatever the batch.
                let mut shape = x.dims().to_vec();
                let inputs = shape.pop().unwrap_or(1);
                let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
                shape.push(weight.dim(0)?);
                y.reshape(shape)?
            }
            // The block kernels take f32 activations on the CPU.
            Matrix::Quantised(weight) => weight.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

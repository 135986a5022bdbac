//! `y = x Wᵀ + b`, dense or with the weights kept in GGML blocks.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Module, Result, Tensor};

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

//! `y = x Wᵀ + b`: dense, with both sides rounded to e4m3, or with the weights kept in int8 or in GGML blocks.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Module, Result, Tensor};

use super::{Eight, Int8, Operand, Rounding};

#[cfg(feature = "cuda")]
use crate::cuda::{eight, launch, linear as kernel};

/// A linear layer. `weight` is (out, in), `bias` (out).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
enum Matrix {
    Dense(Tensor),
    Eight(Eight),
    Int8(Int8),
    Quantised(QMatMul),
}

/// What comes after the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    GeluTanh,
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

    /// From rows in e4m3; what is read is rounded likewise.
    pub fn eight(weight: Eight, bias: Option<Tensor>) -> Self {
        Self { weight: Matrix::Eight(weight), bias }
    }

    /// From rows in int8, which are widened for each product; what is read stays as it is.
    pub fn int8(weight: Int8, bias: Option<Tensor>) -> Self {
        Self { weight: Matrix::Int8(weight), bias }
    }

    /// Whether its input is rounded to 8 bits: whoever makes the input can do that on the way.
    pub fn reads_eight(&self) -> bool {
        matches!(self.weight, Matrix::Eight(_))
    }

    /// Numbers and scales of weights in 8 bits, and what they are rounded to.
    pub fn rounded(&self) -> Option<(Rounding, &Tensor, &Tensor)> {
        let (rounding, (numbers, scales)) = match &self.weight {
            Matrix::Eight(weight) => (Rounding::E4m3, weight.parts()),
            Matrix::Int8(weight) => (Rounding::Int8, weight.parts()),
            Matrix::Dense(_) | Matrix::Quantised(_) => return None,
        };
        Some((rounding, numbers, scales))
    }

    /// `x` as this layer reads it, for several layers of one kind that read the same.
    ///
    /// # Errors
    /// The device has no room.
    pub fn operand(&self, x: &Tensor) -> Result<Operand> {
        if self.reads_eight() { Eight::new(x).map(Operand::Eight) } else { Ok(Operand::Dense(x.clone())) }
    }

    /// [`Linear::forward`] of an operand.
    ///
    /// # Errors
    /// As [`Linear::forward`]; an operand that was made for a layer of another kind.
    pub fn forward_operand(&self, x: &Operand) -> Result<Tensor> {
        self.run(x, Then::Nothing)
    }

    /// `gelu_tanh(y)`. torch rounds y first; a card's kernel does not.
    ///
    /// # Errors
    /// As [`Linear::forward_operand`].
    pub fn forward_gelu(&self, x: &Operand) -> Result<Tensor> {
        self.run(x, Then::GeluTanh)
    }

    /// [`Linear::forward_operand`] written into `buffer` (contiguous) from index `at` of dimension `dim` on; the other
    /// dimensions are the result's.
    ///
    /// # Errors
    /// As [`Linear::forward_operand`], or the result does not fit.
    pub fn forward_into(&self, x: &Operand, buffer: &Tensor, dim: usize, at: usize) -> Result<()> {
        self.run_into(x, Then::Nothing, buffer, dim, at)
    }

    /// [`Linear::forward_gelu`] written as by [`Linear::forward_into`].
    ///
    /// # Errors
    /// As [`Linear::forward_into`].
    pub fn forward_gelu_into(&self, x: &Operand, buffer: &Tensor, dim: usize, at: usize) -> Result<()> {
        self.run_into(x, Then::GeluTanh, buffer, dim, at)
    }

    /// `residual + y`, residual of y's shape. torch rounds y first; a card's kernel does not.
    ///
    /// # Errors
    /// As [`Linear::forward_operand`].
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Matrix::Dense(weight) = &self.weight
            && let Some(y) = kernel::linear_onto(x, weight, self.bias.as_ref(), residual)?
        {
            return Ok(y);
        }
        residual + self.forward(x)?
    }

    fn run(&self, x: &Operand, then: Then) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(y) = self.on_card(x, then)? {
            return Ok(y);
        }
        let y = match (&self.weight, x) {
            (Matrix::Eight(weight), Operand::Eight(x)) => self.imitated(weight, x)?,
            (Matrix::Eight(weight), Operand::Dense(x)) => self.imitated(weight, &Eight::new(x)?)?,
            (_, Operand::Dense(x)) => self.plain(x)?,
            (_, Operand::Eight(_)) => candle_core::bail!("an operand in 8 bits for a layer that is not"),
        };
        match then {
            Then::Nothing => Ok(y),
            Then::GeluTanh => super::gelu_tanh(&y),
        }
    }

    fn run_into(&self, x: &Operand, then: Then, buffer: &Tensor, dim: usize, at: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if launch::card(buffer.device()).is_some() {
            let length = match (dim + 1 == buffer.rank(), x) {
                (true, _) => self.outputs()?,
                (false, Operand::Dense(x)) => x.dim(dim)?,
                (false, Operand::Eight(x)) => x.parts().0.dim(dim)?,
            };
            if self.writes(x, then, &buffer.narrow(dim, at, length)?)? {
                return Ok(());
            }
        }
        buffer.slice_set(&self.run(x, then)?, dim, at)
    }

    #[cfg(feature = "cuda")]
    fn outputs(&self) -> Result<usize> {
        match (&self.weight, &self.bias) {
            (Matrix::Dense(weight), _) => weight.dim(0),
            (Matrix::Eight(weight), _) => weight.parts().0.dim(0),
            (Matrix::Int8(weight), _) => weight.parts().0.dim(0),
            (Matrix::Quantised(_), Some(bias)) => bias.dim(0),
            // Not known, and no kernel asks.
            (Matrix::Quantised(_), None) => Ok(0),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_card(&self, x: &Operand, then: Then) -> Result<Option<Tensor>> {
        let (device, dims, dtype) = match x {
            Operand::Dense(x) => (x.device(), x.dims(), x.dtype()),
            Operand::Eight(x) => (x.parts().0.device(), x.dims(), x.dtype()),
        };
        let Some(card) = launch::card(device) else { return Ok(None) };
        if launch::format(dtype).is_none() || matches!(self.weight, Matrix::Quantised(_)) {
            return Ok(None);
        }
        let mut shape = dims.to_vec();
        if let Some(columns) = shape.last_mut() {
            *columns = self.outputs()?;
        }
        let y = launch::empty(shape, dtype, card)?;
        Ok(self.writes(x, then, &y)?.then_some(y))
    }

    #[cfg(feature = "cuda")]
    fn writes(&self, x: &Operand, then: Then, y: &Tensor) -> Result<bool> {
        let epilogue = match then {
            Then::Nothing => kernel::Epilogue::None,
            Then::GeluTanh => kernel::Epilogue::GeluTanh,
        };
        let bias = self.bias.as_ref();
        match (&self.weight, x) {
            (Matrix::Dense(weight), Operand::Dense(x)) => kernel::linear_into(x, weight, bias, epilogue, y),
            (Matrix::Eight(weight), Operand::Eight(x)) => {
                eight::linear_into(x.parts(), weight.parts(), bias, epilogue, y)
            }
            (Matrix::Eight(weight), Operand::Dense(x)) => {
                eight::linear_into(Eight::new(x)?.parts(), weight.parts(), bias, epilogue, y)
            }
            (Matrix::Int8(weight), Operand::Dense(x)) => {
                kernel::linear_into(x, &weight.widened(x.dtype())?, bias, epilogue, y)
            }
            _ => Ok(false),
        }
    }

    /// What a card makes of rows in e4m3, in f32.
    fn imitated(&self, weight: &Eight, x: &Eight) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let wide = Self { weight: Matrix::Dense(weight.widened()?), bias };
        wide.plain(&x.widened()?)?.to_dtype(x.dtype())
    }

    /// (out).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The same layer for inputs in f32 that come from `dtype`.
    fn widened(&self, dtype: DType) -> Result<Self> {
        let weight = match &self.weight {
            Matrix::Dense(weight) => Matrix::Dense(weight.to_dtype(DType::F32)?),
            // A card widens to `dtype` and no further.
            Matrix::Int8(weight) => Matrix::Dense(weight.widened(dtype)?.to_dtype(DType::F32)?),
            other => other.clone(),
        };
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        Ok(Self { weight, bias })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        // candle has no bf16 product on a CPU; through f32 it rounds where torch does.
        if x.device().is_cpu() && x.dtype() != DType::F32 {
            return self.widened(x.dtype())?.plain(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
        }
        let y = match &self.weight {
            Matrix::Dense(weight) => product(x, weight)?,
            Matrix::Int8(weight) => product(x, &weight.widened(x.dtype())?)?,
            // The block kernels take f32 activations on the CPU.
            Matrix::Quantised(weight) => weight.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?,
            Matrix::Eight(weight) => return self.imitated(weight, &Eight::new(x)?),
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// One large product instead of a batch of small ones: rows are rows, whatever the batch.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    shape.push(weight.dim(0)?);
    y.reshape(shape)
}

impl Module for Linear {
    /// `x`: (…, in) -> (…, out) in `x`'s dtype. torch accumulates in f32 and rounds once, after the bias.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(&Operand::Dense(x.clone()), Then::Nothing)
    }
}

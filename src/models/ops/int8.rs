//! Weights in int8 with a scale a row. Only they are rounded: each product widens its matrix to the dtype of what it reads
//! first, so it costs a pass over the matrix and no precision of the activations, on any card.

use candle_core::{DType, Result, Tensor};

use super::Rounding;
use super::eight::{narrowed, widened};

#[cfg(feature = "cuda")]
use crate::cuda::widen as kernel;

/// A matrix in int8: row r is `numbers[r] · scales[r]`.
#[derive(Debug, Clone)]
pub struct Int8 {
    /// (outputs, inputs), two's complement as u8.
    numbers: Tensor,
    /// (outputs), f32.
    scales: Tensor,
}

impl Int8 {
    /// Rounds `x` (outputs, inputs), through main memory. A row's scale is its largest magnitude over 127, 1 for a row of
    /// zeros.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(x: &Tensor) -> Result<Self> {
        let (numbers, scales) = narrowed(x, Rounding::Int8)?;
        Ok(Self { numbers, scales })
    }

    /// From an arena's parts: `numbers` (outputs, inputs) u8, `scales` (outputs) f32.
    pub fn from_parts(numbers: Tensor, scales: Tensor) -> Self {
        Self { numbers, scales }
    }

    /// (outputs, inputs).
    pub fn dims(&self) -> &[usize] {
        self.numbers.dims()
    }

    /// (numbers, scales).
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.numbers, &self.scales)
    }

    /// The matrix in `dtype` (f32, f16 or bf16): the product in f32, rounded once.
    ///
    /// # Errors
    /// The device has no room.
    pub fn widened(&self, dtype: DType) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(wide) = kernel::widen(&self.numbers, &self.scales, dtype)? {
            return Ok(wide);
        }
        widened(&self.numbers, &self.scales, Rounding::Int8)?.to_dtype(dtype)
    }
}

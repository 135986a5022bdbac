//! Products in 8 bits: rows of e4m3 with a scale each, on both sides.
//!
//! Weights are rounded once, at load; activations before each product that reads them, at best in the kernel that makes
//! them. A scale a row costs nothing over a scale a matrix on Hopper and keeps one loud token from drowning the others.

use candle_core::{D, DType, Result, Tensor};

use super::{Linear, Norm, Rounding};

#[cfg(feature = "cuda")]
use crate::cuda::{eight as kernel, launch, norm as norm_kernel};

/// Rows in e4m3: `numbers · scales` is the matrix.
#[derive(Debug, Clone)]
pub struct Eight {
    /// (…, columns), the formats' bytes as u8.
    numbers: Tensor,
    /// One a row, f32.
    scales: Tensor,
    /// Of what was rounded, and of what comes of products.
    dtype: DType,
}

impl Eight {
    /// Rounds `x` (…, columns). A row's scale is its largest magnitude over 448, 1 for a row of zeros.
    ///
    /// # Errors
    /// The device has no room; on a card, columns that 16 does not divide.
    pub fn new(x: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some((numbers, scales)) = kernel::quantise(None, x)? {
            return Ok(Self { numbers, scales, dtype: x.dtype() });
        }
        let (numbers, scales) = narrowed(x, Rounding::E4m3)?;
        Ok(Self { numbers, scales, dtype: x.dtype() })
    }

    /// From a checkpoint's or an arena's parts: `numbers` (…, columns) u8, `scales` (rows) f32, for products in `dtype`.
    pub fn from_parts(numbers: Tensor, scales: Tensor, dtype: DType) -> Self {
        Self { numbers, scales, dtype }
    }

    /// `numbers` (…, columns) that stand for themselves, u8, for products in `dtype`.
    ///
    /// # Errors
    /// The device has no room.
    pub fn unscaled(numbers: Tensor, dtype: DType) -> Result<Self> {
        let rows = numbers.elem_count() / numbers.dims().last().copied().unwrap_or(1).max(1);
        #[cfg(feature = "cuda")]
        if let Some(card) = launch::card(numbers.device()) {
            return Ok(Self { scales: kernel::unit_scales(rows, card)?, numbers, dtype });
        }
        let scales = Tensor::ones(rows, DType::F32, numbers.device())?;
        Ok(Self { numbers, scales, dtype })
    }

    /// `before` (…, columns), u8 without scales, and `x` (…, columns) side by side, with a scale for each row of both.
    ///
    /// # Errors
    /// Shapes that do not match; as [`Eight::new`].
    pub fn beside(before: &Tensor, x: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some((numbers, scales)) = kernel::quantise(Some(before), x)? {
            return Ok(Self { numbers, scales, dtype: x.dtype() });
        }
        let wide = Self::unscaled(before.clone(), DType::F32)?.widened()?;
        let (numbers, scales) =
            narrowed(&Tensor::cat(&[&wide, &x.to_dtype(DType::F32)?], D::Minus1)?, Rounding::E4m3)?;
        Ok(Self { numbers, scales, dtype: x.dtype() })
    }

    /// Shape of the matrix.
    pub fn dims(&self) -> &[usize] {
        self.numbers.dims()
    }

    /// Of products.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// (numbers, scales).
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.numbers, &self.scales)
    }

    /// The matrix in f32, through main memory: for a CPU.
    ///
    /// # Errors
    /// Main memory has no room.
    pub fn widened(&self) -> Result<Tensor> {
        widened(&self.numbers, &self.scales, Rounding::E4m3)
    }
}

/// What a product reads.
#[derive(Debug, Clone)]
pub enum Operand {
    /// As it is.
    Dense(Tensor),
    /// Rounded, once for all products that read it.
    Eight(Eight),
}

/// [`super::layer_norm_modulate`] as `reader` wants its input.
///
/// # Errors
/// Shapes that do not match.
pub fn layer_norm_modulate_for(
    reader: &Linear,
    x: &Tensor,
    shift: &Tensor,
    scale: &Tensor,
    eps: f64,
) -> Result<Operand> {
    if !reader.reads_eight() {
        return super::layer_norm_modulate(x, shift, scale, eps).map(Operand::Dense);
    }
    #[cfg(feature = "cuda")]
    if let Some((numbers, scales)) =
        norm_kernel::norm_eight(x, norm_kernel::Form::Modulate { scale, shift }, eps)?
    {
        return Ok(Operand::Eight(Eight { numbers, scales, dtype: x.dtype() }));
    }
    Eight::new(&super::layer_norm_modulate(x, shift, scale, eps)?).map(Operand::Eight)
}

/// [`super::residual_norm`] with the modulated norm as `reader` wants its input: the sum, and the norm of it.
///
/// # Errors
/// Shapes that do not match.
pub fn residual_modulate_for(
    reader: &Linear,
    (x, gate, y): (&Tensor, &Tensor, &Tensor),
    shift: &Tensor,
    scale: &Tensor,
    eps: f64,
) -> Result<(Tensor, Operand)> {
    #[cfg(feature = "cuda")]
    if reader.reads_eight() {
        let form = norm_kernel::Form::Modulate { scale, shift };
        if let Some((sum, numbers, scales)) = norm_kernel::residual_norm_eight(x, Some(gate), y, form, eps)? {
            return Ok((sum, Operand::Eight(Eight { numbers, scales, dtype: x.dtype() })));
        }
    }
    let (sum, normed) = super::residual_norm(x, Some(gate), y, Norm::Modulate { shift, scale }, eps)?;
    let normed =
        if reader.reads_eight() { Operand::Eight(Eight::new(&normed)?) } else { Operand::Dense(normed) };
    Ok((sum, normed))
}

/// Numbers (u8, `x`'s shape) and scales (f32, one a row) of `x` (…, columns), rounded in main memory.
pub(super) fn narrowed(x: &Tensor, rounding: Rounding) -> Result<(Tensor, Tensor)> {
    let columns = x.dims().last().copied().unwrap_or(1);
    let wide = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let (numbers, scales) = rounding.rows(&wide, columns);
    let count = scales.len();
    let numbers = Tensor::from_vec(numbers, x.shape(), x.device())?;
    Ok((numbers, Tensor::from_vec(scales, count, x.device())?))
}

/// The f32 matrix behind [`narrowed`], through main memory.
pub(super) fn widened(numbers: &Tensor, scales: &Tensor, rounding: Rounding) -> Result<Tensor> {
    let columns = numbers.dims().last().copied().unwrap_or(1);
    let codes = numbers.flatten_all()?.to_vec1::<u8>()?;
    let wide = rounding.widened(&codes, &scales.to_vec1::<f32>()?, columns);
    Tensor::from_vec(wide, numbers.shape(), numbers.device())
}

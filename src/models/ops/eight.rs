//! Products in 8 bits: rows of e4m3 (4 bits of exponent, 3 of mantissa, up to 448) with a scale each.
//!
//! Weights are rounded once, at load; activations before each product that reads them, at best in the kernel that makes
//! them. A scale a row costs nothing over a scale a matrix on Hopper and keeps one loud token from drowning the others.

use candle_core::{DType, Device, Result, Tensor};

use super::{Linear, Norm};

#[cfg(feature = "cuda")]
use crate::cuda::{eight as kernel, launch, norm as norm_kernel};

/// Largest e4m3 number.
const LARGEST: f32 = 448.0;

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
        if let Some((numbers, scales)) = kernel::quantise(x)? {
            return Ok(Self { numbers, scales, dtype: x.dtype() });
        }
        let columns = x.dims().last().copied().unwrap_or(1);
        let wide = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let (numbers, scales) = rounded(&wide, columns.max(1));
        let count = scales.len();
        Ok(Self {
            numbers: Tensor::from_vec(numbers, x.shape(), x.device())?,
            scales: Tensor::from_vec(scales, count, x.device())?,
            dtype: x.dtype(),
        })
    }

    /// From a checkpoint's or an arena's parts: `numbers` (…, columns) u8, `scales` (rows) f32, for products in `dtype`.
    pub fn from_parts(numbers: Tensor, scales: Tensor, dtype: DType) -> Self {
        Self { numbers, scales, dtype }
    }

    /// Whether `device` multiplies in e4m3 faster than in 16 bits (a card from compute capability 8.9 on), or is a CPU,
    /// which imitates it.
    pub fn suits(device: &Device) -> bool {
        #[cfg(feature = "cuda")]
        if let Some(card) = launch::card(device) {
            return kernel::available(card);
        }
        device.is_cpu()
    }

    /// Whether a matrix of this shape can be multiplied in e4m3.
    pub fn fits(outputs: usize, inputs: usize) -> bool {
        outputs.is_multiple_of(16) && inputs.is_multiple_of(16)
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
        let columns = self.dims().last().copied().unwrap_or(1).max(1);
        let numbers = self.numbers.flatten_all()?.to_vec1::<u8>()?;
        let scales = self.scales.to_vec1::<f32>()?;
        let table: Vec<f32> = (0..=u8::MAX).map(decode).collect();
        let mut wide = Vec::with_capacity(numbers.len());
        for (row, scale) in numbers.chunks(columns).zip(&scales) {
            wide.extend(row.iter().map(|&number| table.get(usize::from(number)).map_or(0.0, |x| x * scale)));
        }
        Tensor::from_vec(wide, self.numbers.shape(), self.numbers.device())
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

/// Numbers and scales of rows of `columns`.
pub(crate) fn rounded(wide: &[f32], columns: usize) -> (Vec<u8>, Vec<f32>) {
    let mut numbers = Vec::with_capacity(wide.len());
    let mut scales = Vec::with_capacity(wide.len() / columns.max(1));
    for row in wide.chunks(columns) {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = if largest > 0.0 { largest / LARGEST } else { 1.0 };
        let factor = 1.0 / scale;
        numbers.extend(row.iter().map(|x| encode(x * factor)));
        scales.push(scale);
    }
    (numbers, scales)
}

/// To the nearest e4m3 number, ties to even, held within ±448.
fn encode(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let x = x.abs().min(LARGEST);
    // Below 2⁻⁶ numbers are multiples of 2⁻⁹; eight of them are 2⁻⁶, whose code follows theirs.
    if x < 0.015625 {
        return sign | (x * 512.0).round_ties_even() as u8;
    }
    // Twenty of the 23 bits of the mantissa go; a carry moves into the exponent, as it should.
    let bits = x.to_bits();
    let kept = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
    // From an exponent that counts from -127 to one that counts from -7.
    sign | (kept - (120 << 3)) as u8
}

/// The number behind a code; 0x7f and 0xff are not a number.
fn decode(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa / 512.0,
        _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

//! Elementwise formulas. All compute in f32 and round once, as torch's kernels do; candle's own GELU rounds after every
//! step in half precision.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{activation as kernel, norm};

/// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
///
/// # Errors
/// The device has no room.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::activate(x, kernel::Formula::GeluTanh)? {
        return Ok(y);
    }
    in_f32(x, Tensor::gelu)
}

/// `0.5 x (1 + erf(x / √2))`.
///
/// # Errors
/// The device has no room.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::activate(x, kernel::Formula::GeluErf)? {
        return Ok(y);
    }
    in_f32(x, Tensor::gelu_erf)
}

/// `x σ(x)`.
///
/// # Errors
/// The device has no room.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::activate(x, kernel::Formula::Silu)? {
        return Ok(y);
    }
    in_f32(x, Tensor::silu)
}

/// `1 / (1 + exp(-x))`.
///
/// # Errors
/// The device has no room.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    in_f32(x, candle_nn::ops::sigmoid)
}

/// `x σ(1.702 x)`. transformers rounds after each of the three steps.
///
/// # Errors
/// The device has no room.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::activate(x, kernel::Formula::QuickGelu)? {
        return Ok(y);
    }
    x * in_f32(&(x * 1.702)?, candle_nn::ops::sigmoid)?
}

/// `gelu_tanh(a) · b` of `x` = (…, a and b side by side): T5's gate. torch rounds the first factor and the product.
///
/// # Errors
/// An odd number of columns, or the device has no room.
pub fn gelu_tanh_gate(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::gated(x, kernel::Formula::GeluTanh)? {
        return Ok(y);
    }
    let half = x.dim(D::Minus1)? / 2;
    gelu_tanh(&x.narrow(D::Minus1, 0, half)?.contiguous()?)? * x.narrow(D::Minus1, half, half)?
}

/// `x + gate · y` with `gate` (batch, channels) for all tokens. torch rounds the product, then the sum.
///
/// # Errors
/// Shapes that do not match.
pub fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(sum) = norm::residual(x, Some(gate), y)? {
        return Ok(sum);
    }
    x + y.broadcast_mul(&gate.unsqueeze(1)?)?
}

fn in_f32(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        return f(x);
    }
    f(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

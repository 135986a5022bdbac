//! Elementwise formulas. All compute in f32 and round once, as torch's kernels do; candle's own GELU rounds after every
//! step in half precision.

use candle_core::{DType, Result, Tensor};

/// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
///
/// # Errors
/// The device has no room.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    in_f32(x, Tensor::gelu)
}

/// `0.5 x (1 + erf(x / √2))`.
///
/// # Errors
/// The device has no room.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    in_f32(x, Tensor::gelu_erf)
}

/// `x σ(x)`.
///
/// # Errors
/// The device has no room.
pub fn silu(x: &Tensor) -> Result<Tensor> {
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
    x * in_f32(&(x * 1.702)?, candle_nn::ops::sigmoid)?
}

/// `x + gate · y` with `gate` (batch, channels) for all tokens. torch rounds the product, then the sum.
///
/// # Errors
/// Shapes that do not match.
pub fn gated_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    x + y.broadcast_mul(&gate.unsqueeze(1)?)?
}

fn in_f32(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        return f(x);
    }
    f(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

//! Pictures and feature maps, (batch, channels, height, width): arithmetic that keeps them in the order in memory that
//! convolutions like.
//!
//! On a CPU that is as the shape says. On a card it is channels last, with permuted strides; a picture that lies otherwise
//! is copied by the first function that meets it. Candle's own operators would write every result as the shape says, so
//! nets add, join and resize through these.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::picture as kernels;

/// `a + b`, (batch, channels, height, width) both, or a single `b` for all of `a`.
///
/// # Errors
/// Shapes that do not match, no room on the device.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    add_scaled(a, b, 1.0)
}

/// `a + scale · b`, of [`add`]'s shapes. torch rounds the product, then the sum.
///
/// # Errors
/// As [`add`].
pub fn add_scaled(a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() {
        return kernels::scaled_sum(Some(a), b, scale);
    }
    let b = scaled(b, scale)?;
    if b.dim(0)? == 1 { a.broadcast_add(&b) } else { a + b }
}

/// `f` of every number on its own.
///
/// # Errors
/// What `f` returns.
pub fn each(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.device().is_cpu() {
        return f(x);
    }
    as_it_lies(&f(&lying(x)?)?)
}

/// `scale · x`. A Python number multiplies in f32 whatever the tensor's dtype.
///
/// # Errors
/// No room on the device.
pub fn scaled(x: &Tensor, scale: f64) -> Result<Tensor> {
    if (scale - 1.0).abs() < f64::EPSILON {
        return Ok(x.clone());
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return kernels::scaled_sum(None, x, scale);
    }
    (x.to_dtype(DType::F32)? * scale)?.to_dtype(x.dtype())
}

/// Channels of all pictures side by side.
///
/// # Errors
/// Pictures of different sizes.
pub fn cat_channels(pictures: &[&Tensor]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if pictures.first().is_some_and(|first| first.device().is_cuda()) {
        return kernels::cat_channels(pictures);
    }
    Tensor::cat(pictures, 1)
}

/// Each pixel of the new size is the nearest old one.
///
/// # Errors
/// No room on the device.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return kernels::resize(x, height, width, kernels::Filter::Nearest);
    }
    x.upsample_nearest2d(height, width)
}

/// The mean of each channel over all pixels, (batch, channels, 1, 1); summed in f32, rounded once.
///
/// # Errors
/// No room on the device.
pub fn pixel_mean(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return kernels::pixel_mean(x);
    }
    x.to_dtype(DType::F32)?.mean_keepdim(3)?.mean_keepdim(2)?.to_dtype(x.dtype())
}

/// `x · σ(gate)` with one `gate` a pixel, (batch, 1, height, width). torch rounds the sigmoid, then the product.
///
/// # Errors
/// Shapes that do not match.
pub fn gate(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return kernels::gate(x, gate);
    }
    x.broadcast_mul(&super::sigmoid(gate)?)
}

/// A picture's pixels as tokens, row by row: (batch, height · width, channels), contiguous. On a card the same memory.
///
/// # Errors
/// Another number of dimensions.
pub fn tokens(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if x.device().is_cpu() {
        return x.reshape((batch, channels, height * width))?.transpose(1, 2)?.contiguous();
    }
    lying(x)?.reshape((batch, height * width, channels))
}

/// The inverse of [`tokens`].
///
/// # Errors
/// Another number of tokens.
pub fn from_tokens(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, _, channels) = x.dims3()?;
    if x.device().is_cpu() {
        return x.transpose(1, 2)?.reshape((batch, channels, height, width));
    }
    as_it_lies(&x.reshape((batch, height, width, channels))?)
}

/// A map (batch, height, width, channels) as a picture (batch, channels, height, width). On a card the same memory.
///
/// # Errors
/// Another number of dimensions.
pub fn from_map(x: &Tensor) -> Result<Tensor> {
    let picture = as_it_lies(x)?;
    if x.device().is_cpu() { picture.contiguous() } else { Ok(picture) }
}

/// `value · gelu(gate)`, the erf form, of rows (…, values | gates). torch rounds after the GELU and after the product.
///
/// # Errors
/// An odd number of channels.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return kernels::geglu(x);
    }
    let inner = x.dim(D::Minus1)? / 2;
    let gate = super::gelu_erf(&x.narrow(D::Minus1, inner, inner)?.contiguous()?)?;
    x.narrow(D::Minus1, 0, inner)? * gate
}

/// (batch, height, width, channels), contiguous.
fn lying(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// (batch, channels, height, width) over memory in the order of [`lying`].
fn as_it_lies(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

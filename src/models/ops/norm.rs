//! Normalisations. Statistics in f32 (biased variance), one rounding at the end, as torch.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::picture;

/// `(x - mean) / √(var + eps) · weight + bias` over the last dimension; `affine` is (weight, bias).
///
/// # Errors
/// Shapes that do not match.
pub fn layer_norm(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<Tensor> {
    let y = standardise(&x.to_dtype(DType::F32)?, eps)?;
    let y = match affine {
        Some((weight, bias)) => {
            y.broadcast_mul(&weight.to_dtype(DType::F32)?)?.broadcast_add(&bias.to_dtype(DType::F32)?)?
        }
        None => y,
    };
    y.to_dtype(x.dtype())
}

/// `layer_norm(x) · (1 + scale) + shift`; `x` (batch, tokens, channels), `shift` and `scale` (batch, channels).
/// torch rounds the norm, `1 + scale`, the product and the sum.
///
/// # Errors
/// Shapes that do not match.
pub fn layer_norm_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    layer_norm(x, None, eps)?
        .broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?
        .broadcast_add(&shift.unsqueeze(1)?)
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension, rounded once (`torch.nn.RMSNorm`). T5's own layer norm
/// rounds before the weight as well and is not this function.
///
/// # Errors
/// Shapes that do not match.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let inverse = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    wide.broadcast_mul(&inverse)?.broadcast_mul(&weight.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

/// Group normalisation of (batch, channels, …); `weight` and `bias` are (channels).
///
/// # Errors
/// Channels that `groups` does not divide.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.rank() == 4 {
        return picture::group_norm(x, None, weight, bias, picture::GroupNorm { groups, eps, silu: false });
    }
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    let mut per_channel = vec![1; x.rank()];
    if let Some(slot) = per_channel.get_mut(1) {
        *slot = channels;
    }
    standardise(&x.to_dtype(DType::F32)?.reshape((batch, groups, ()))?, eps)?
        .reshape(x.shape())?
        .broadcast_mul(&weight.to_dtype(DType::F32)?.reshape(per_channel.clone())?)?
        .broadcast_add(&bias.to_dtype(DType::F32)?.reshape(per_channel)?)?
        .to_dtype(x.dtype())
}

/// [`group_norm`], then `y σ(y)`. torch rounds between the two; on a card there is one rounding, at the end.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_silu(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.rank() == 4 {
        return picture::group_norm(x, None, weight, bias, picture::GroupNorm { groups, eps, silu: true });
    }
    super::silu(&group_norm(x, weight, bias, groups, eps)?)
}

/// [`group_norm_silu`] of `x + shift`, `shift` (batch, channels) for all pixels; the sum is rounded first, as torch does.
///
/// # Errors
/// As [`group_norm`].
pub fn shifted_group_norm_silu(
    x: &Tensor,
    shift: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.rank() == 4 {
        let formula = picture::GroupNorm { groups, eps, silu: true };
        return picture::group_norm(x, Some(shift), weight, bias, formula);
    }
    let x = x.broadcast_add(&shift.unsqueeze(2)?.unsqueeze(3)?)?;
    group_norm_silu(&x, weight, bias, groups, eps)
}

fn standardise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let inverse = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    centred.broadcast_mul(&inverse)
}

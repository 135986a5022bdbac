//! Normalisations. Statistics in f32 (biased variance), one rounding at the end, as torch.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{norm as kernel, picture};

/// Which normalisation [`residual_norm`] applies: the functions of this file by name.
#[derive(Debug, Clone, Copy)]
pub enum Norm<'a> {
    /// [`layer_norm`] with weights (channels).
    Layer {
        /// (channels).
        weight: &'a Tensor,
        /// (channels).
        bias: &'a Tensor,
    },
    /// [`layer_norm_modulate`], (batch, channels) each.
    Modulate {
        /// (batch, channels).
        shift: &'a Tensor,
        /// (batch, channels).
        scale: &'a Tensor,
    },
    /// [`t5_norm`] with its weight.
    T5(&'a Tensor),
}

impl Norm<'_> {
    /// Of `x` alone.
    ///
    /// # Errors
    /// Shapes that do not match.
    pub fn apply(self, x: &Tensor, eps: f64) -> Result<Tensor> {
        match self {
            Self::Layer { weight, bias } => layer_norm(x, Some((weight, bias)), eps),
            Self::Modulate { shift, scale } => layer_norm_modulate(x, shift, scale, eps),
            Self::T5(weight) => t5_norm(x, weight, eps),
        }
    }

    #[cfg(feature = "cuda")]
    fn form(&self) -> kernel::Form<'_> {
        match *self {
            Self::Layer { weight, bias } => kernel::Form::Affine { weight, bias },
            Self::Modulate { shift, scale } => kernel::Form::Modulate { scale, shift },
            Self::T5(weight) => kernel::Form::T5(weight),
        }
    }
}

/// The end of a sub-layer and the beginning of the next: `s = x + gate · y` (gate (batch, channels), or 1), and the norm of
/// s. Both are needed, s as the residual stream.
///
/// # Errors
/// Shapes that do not match.
pub fn residual_norm(
    x: &Tensor,
    gate: Option<&Tensor>,
    y: &Tensor,
    norm: Norm<'_>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let Some(both) = kernel::residual_norm(x, gate, y, norm.form(), eps)? {
        return Ok(both);
    }
    let sum = match gate {
        Some(gate) => super::gated_residual(x, gate, y)?,
        None => (x + y)?,
    };
    let normed = norm.apply(&sum, eps)?;
    Ok((sum, normed))
}

/// `(x - mean) / √(var + eps) · weight + bias` over the last dimension; `affine` is (weight, bias).
///
/// # Errors
/// Shapes that do not match.
pub fn layer_norm(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let form = match affine {
            Some((weight, bias)) => kernel::Form::Affine { weight, bias },
            None => kernel::Form::Layer,
        };
        if let Some(y) = kernel::norm(x, form, eps)? {
            return Ok(y);
        }
    }
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
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::norm(x, kernel::Form::Modulate { scale, shift }, eps)? {
        return Ok(y);
    }
    layer_norm(x, None, eps)?
        .broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?
        .broadcast_add(&shift.unsqueeze(1)?)
}

/// `x / √(mean(x²) + eps) · weight` over the last dimension, rounded once (`torch.nn.RMSNorm`).
///
/// # Errors
/// Shapes that do not match.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::norm(x, kernel::Form::Rms(weight), eps)? {
        return Ok(y);
    }
    by_root_mean_square(x, eps)?.broadcast_mul(&weight.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

/// T5's layer norm: [`rms_norm`], but rounded to the weight's dtype before the weight and after.
///
/// # Errors
/// Shapes that do not match.
pub fn t5_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = kernel::norm(x, kernel::Form::T5(weight), eps)? {
        return Ok(y);
    }
    by_root_mean_square(x, eps)?.to_dtype(weight.dtype())?.broadcast_mul(weight)
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

/// `x / √(mean(x²) + eps)` in f32.
fn by_root_mean_square(x: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let inverse = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    wide.broadcast_mul(&inverse)
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

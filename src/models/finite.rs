//! Whether what a denoising left is numbers.
//!
//! A net that overflows its format, a damaged checkpoint or a card that computes wrongly leave latents that are not numbers,
//! which a VAE decodes to an even, dark picture: nothing that a customer should be sent as the result. Must not know nets.
//! Callers: the pipelines, at the end of a denoising.

use candle_core::{DType, Device, Result, Tensor};

use super::PipelineError;

/// `latents`, of any shape and float dtype, if all of them are finite. Waits for the device: 0.1 ms for a picture of
/// 1024 x 1024.
///
/// # Errors
/// [`PipelineError::NotNumbers`]; the device is lost.
pub fn finite(net: &'static str, latents: Tensor) -> std::result::Result<Tensor, PipelineError> {
    let (found, all) = (not_finite(&latents)?, latents.elem_count());
    match found {
        0 => Ok(latents),
        found => Err(PipelineError::NotNumbers { net, found, all, dtype: latents.dtype().as_str() }),
    }
}

fn not_finite(x: &Tensor) -> Result<usize> {
    let numbers = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.iter().filter(|number| !number.is_finite()).count())
}

//! The diagonal normal distribution that the encoder gives.

use candle_core::{Result, Tensor};

use crate::models::rng::Generator;

/// Mean and standard deviation of every latent, both (batch, channels, height, width).
#[derive(Debug, Clone)]
pub struct Posterior {
    /// Centre.
    pub mean: Tensor,
    /// Spread.
    pub std: Tensor,
}

impl Posterior {
    /// From (batch, 2 channels, height, width): means, then log-variances, which are held within [-30, 20].
    pub(super) fn from_moments(moments: &Tensor) -> Result<Self> {
        let channels = moments.dim(1)? / 2;
        let mean = moments.narrow(1, 0, channels)?.contiguous()?;
        let log_variance = moments.narrow(1, channels, channels)?.clamp(-30f32, 20f32)?;
        Ok(Self { mean, std: (log_variance * 0.5)?.exp()? })
    }

    /// `mean + std * randn`. One draw of the mean's shape and dtype: callers keep diffusers' order of draws.
    ///
    /// # Errors
    /// As [`Generator::randn`].
    pub fn sample(&self, generator: &mut Generator) -> Result<Tensor> {
        let noise = generator.randn(self.mean.shape().clone(), self.mean.dtype(), self.mean.device())?;
        &self.mean + (&self.std * noise)?
    }

    /// The likeliest latents.
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }
}

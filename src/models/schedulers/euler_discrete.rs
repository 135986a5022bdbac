//! Euler's method on the variance-exploding form of a DDPM (`EulerDiscreteScheduler`), the scheduler of SDXL.
//!
//! Covers the `scaled_linear` and `linear` betas, prediction `epsilon`, all three spacings and Karras' sigmas; without
//! churn. See the parent for the rules of rounding.

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use super::{ScheduleError, linspace, times};

/// How timesteps are chosen from the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// Whole strides from the quiet end, plus an offset.
    Leading,
    /// Whole strides from the noisy end.
    Trailing,
    /// Even, both ends included.
    Linspace,
}

/// The fields of `scheduler_config.json` that change numbers; diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EulerConfig {
    /// Length of the training schedule.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// `linear` or `scaled_linear`.
    pub beta_schedule: String,
    /// `epsilon`.
    pub prediction_type: String,
    /// Choice of timesteps.
    pub timestep_spacing: Spacing,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// `linear`.
    pub interpolation_type: String,
    /// `zero`.
    pub final_sigmas_type: String,
    /// Karras' spacing of sigmas (rho 7).
    pub use_karras_sigmas: Option<bool>,
    /// Another spacing.
    pub use_exponential_sigmas: Option<bool>,
    /// Another spacing.
    pub use_beta_sigmas: Option<bool>,
    /// Zero terminal SNR.
    pub rescale_betas_zero_snr: bool,
}

impl Default for EulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: "linear".to_owned(),
            prediction_type: "epsilon".to_owned(),
            timestep_spacing: Spacing::Linspace,
            steps_offset: 0,
            interpolation_type: "linear".to_owned(),
            final_sigmas_type: "zero".to_owned(),
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            use_beta_sigmas: None,
            rescale_betas_zero_snr: false,
        }
    }
}

/// The scheduler: a checked configuration and the sigmas of all training steps, quiet to noisy.
#[derive(Debug, Clone)]
pub struct EulerDiscrete {
    config: EulerConfig,
    trained: Vec<f32>,
}

impl EulerDiscrete {
    /// Checks the configuration and computes the training sigmas.
    ///
    /// # Errors
    /// [`ScheduleError::Unsupported`] for variants listed in none of this module's types.
    pub fn new(config: EulerConfig) -> std::result::Result<Self, ScheduleError> {
        let must = |option, found: &str, accepted: &'static [&'static str], supported| {
            if accepted.contains(&found) {
                return Ok(());
            }
            Err(ScheduleError::Unsupported { option, found: found.to_owned(), supported })
        };
        must(
            "beta_schedule",
            &config.beta_schedule,
            &["linear", "scaled_linear"],
            "`linear` and `scaled_linear`",
        )?;
        must("prediction_type", &config.prediction_type, &["epsilon"], "`epsilon`")?;
        must("interpolation_type", &config.interpolation_type, &["linear"], "`linear`")?;
        must("final_sigmas_type", &config.final_sigmas_type, &["zero"], "`zero`")?;
        for (option, on) in [
            ("use_exponential_sigmas", config.use_exponential_sigmas == Some(true)),
            ("use_beta_sigmas", config.use_beta_sigmas == Some(true)),
            ("rescale_betas_zero_snr", config.rescale_betas_zero_snr),
        ] {
            must(option, if on { "true" } else { "false" }, &["false"], "`false`")?;
        }
        if config.num_train_timesteps < 2 {
            return Err(ScheduleError::OutOfRange {
                what: "num_train_timesteps",
                expected: "at least 2".into(),
                found: config.num_train_timesteps.to_string(),
            });
        }
        let trained = training_sigmas(&config);
        Ok(Self { config, trained })
    }

    /// The schedule of `steps` steps.
    ///
    /// # Errors
    /// No steps, or more than training steps.
    pub fn schedule(&self, steps: usize) -> std::result::Result<EulerSchedule, ScheduleError> {
        let trained = self.config.num_train_timesteps;
        if steps == 0 || steps > trained {
            return Err(ScheduleError::steps(steps, trained));
        }
        let mut timesteps = self.timesteps(steps);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| self.sigma_at(f64::from(t))).collect();
        if self.config.use_karras_sigmas == Some(true) {
            sigmas = karras(&sigmas, steps);
            timesteps = sigmas.iter().map(|&sigma| self.timestep_of(sigma) as f32).collect();
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        let highest = sigmas.iter().copied().fold(0.0, f32::max);
        sigmas.push(0.0);
        let init_noise_sigma = match self.config.timestep_spacing {
            Spacing::Leading => (highest * highest + 1.0).sqrt(),
            Spacing::Trailing | Spacing::Linspace => highest,
        };
        Ok(EulerSchedule { sigmas, timesteps, init_noise_sigma })
    }

    fn timesteps(&self, steps: usize) -> Vec<f32> {
        let trained = self.config.num_train_timesteps;
        match self.config.timestep_spacing {
            Spacing::Leading => {
                let stride = trained / steps;
                (0..steps).rev().map(|i| (i * stride) as f32 + self.config.steps_offset as f32).collect()
            }
            Spacing::Trailing => {
                let stride = trained as f64 / steps as f64;
                // numpy's `arange` ends before 0; rounding can leave it one point more than there are steps.
                let count = (trained as f64 / stride).ceil() as usize;
                // The increment as numpy forms it: second point minus first.
                let stride = trained as f64 - (trained as f64 - stride);
                (0..count)
                    .map(|i| (trained as f64 - i as f64 * stride).round_ties_even() as f32 - 1.0)
                    .collect()
            }
            Spacing::Linspace => {
                linspace(0.0, (trained - 1) as f64, steps).into_iter().rev().map(|t| t as f32).collect()
            }
        }
    }

    /// Linear interpolation of the training sigmas in f64, as numpy's `interp`.
    fn sigma_at(&self, t: f64) -> f64 {
        let last = self.trained.len() - 1;
        let low = (t.max(0.0) as usize).min(last);
        let high = (low + 1).min(last);
        let (a, b) = (f64::from(self.trained[low]), f64::from(self.trained[high]));
        (b - a) * (t.clamp(0.0, last as f64) - low as f64) + a
    }

    /// The inverse of [`Self::sigma_at`], linear in the logarithm of sigma.
    fn timestep_of(&self, sigma: f64) -> f64 {
        let wanted = sigma.max(1e-10).ln();
        let below = self.trained.partition_point(|&trained| f64::from(trained.ln()) <= wanted);
        let low = below.saturating_sub(1).min(self.trained.len() - 2);
        let (a, b) = (f64::from(self.trained[low].ln()), f64::from(self.trained[low + 1].ln()));
        let weight = ((a - wanted) / (a - b)).clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }
}

/// Sigmas and timesteps of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct EulerSchedule {
    /// One more than there are steps; the last is 0.
    pub sigmas: Vec<f32>,
    /// What the net is told.
    pub timesteps: Vec<f32>,
    /// The standard deviation of the first latent.
    pub init_noise_sigma: f32,
}

impl EulerSchedule {
    /// The first latent, from `noise` of a standard deviation of 1.
    ///
    /// # Errors
    /// No room on the device.
    pub fn start(&self, noise: &Tensor) -> Result<Tensor> {
        times(noise, self.init_noise_sigma)
    }

    /// What the net is shown at step `index`: `sample / √(sigma² + 1)`.
    ///
    /// # Errors
    /// `index` beyond the schedule.
    pub fn scale_model_input(&self, index: usize, sample: &Tensor) -> Result<Tensor> {
        let (sigma, _) = self.pair(index)?;
        let divisor = (sigma * sigma + 1.0).sqrt();
        (sample.to_dtype(DType::F32)? / f64::from(super::rounded(divisor, sample.dtype())))?
            .to_dtype(sample.dtype())
    }

    /// One Euler step from the predicted noise, in `prediction`'s dtype. torch forms the clean sample and the slope
    /// instead of adding noise directly; both roundings are kept.
    ///
    /// # Errors
    /// `index` beyond the schedule; shapes that differ.
    pub fn step(&self, index: usize, sample: &Tensor, prediction: &Tensor) -> Result<Tensor> {
        let (from, to) = self.pair(index)?;
        let wide = sample.to_dtype(DType::F32)?;
        let clean = (&wide - times(prediction, from)?.to_dtype(DType::F32)?)?;
        let slope = ((&wide - clean)? / f64::from(from))?;
        (wide + times(&slope, to - from)?)?.to_dtype(prediction.dtype())
    }

    /// `sample + sigma * noise`: a picture at the noise level of step `index`.
    ///
    /// # Errors
    /// `index` beyond the schedule; shapes that differ.
    pub fn add_noise(&self, index: usize, sample: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (sigma, _) = self.pair(index)?;
        sample + times(noise, sigma)?
    }

    fn pair(&self, index: usize) -> Result<(f32, f32)> {
        match (self.sigmas.get(index), self.sigmas.get(index + 1)) {
            (Some(&from), Some(&to)) => Ok((from, to)),
            _ => candle_core::bail!("Euler step {index}: the schedule has {} steps", self.timesteps.len()),
        }
    }
}

/// `√((1 - ᾱ) / ᾱ)` in f32; the running product is kept in f64 and rounded at each step, as torch's `cumprod` does.
fn training_sigmas(config: &EulerConfig) -> Vec<f32> {
    let scaled = config.beta_schedule == "scaled_linear";
    let end = |beta: f64| if scaled { beta.sqrt() as f32 } else { beta as f32 };
    let betas = torch_linspace(end(config.beta_start), end(config.beta_end), config.num_train_timesteps);
    let mut product = 1f64;
    betas
        .into_iter()
        .map(|beta| {
            let beta = if scaled { beta * beta } else { beta };
            product *= f64::from(1.0 - beta);
            let alpha = product as f32;
            ((1.0 - alpha) / alpha).sqrt()
        })
        .collect()
}

/// torch's f32 `linspace` counts from the nearer end.
fn torch_linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(
            |i| {
                if i < n / 2 {
                    step.mul_add(i as f32, start)
                } else {
                    (-step).mul_add((n - 1 - i) as f32, end)
                }
            },
        )
        .collect()
}

/// Karras et al. (2022), equation 5, between the highest and lowest of `sigmas`.
fn karras(sigmas: &[f64], steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (high, low) = (sigmas.first().copied().unwrap_or(0.0), sigmas.last().copied().unwrap_or(0.0));
    let (high, low) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps).into_iter().map(|ramp| (high + ramp * (low - high)).powf(RHO)).collect()
}

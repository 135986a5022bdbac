//! Flow-matching Euler schedule of FLUX (`FlowMatchEulerDiscreteScheduler`), with the shift that grows with the picture.
//!
//! Sigma is the share of noise in a latent: 1 is pure noise, 0 the picture. See the parent for the rules of rounding.

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use super::{ScheduleError, linspace, rounded, times};

/// The fields of `scheduler_config.json` that change numbers; diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct FlowMatchConfig {
    /// Timestep of sigma 1.
    pub num_train_timesteps: usize,
    /// Fixed shift; unused with `use_dynamic_shifting`.
    pub shift: f64,
    /// Shift by the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// Shift exponent at `base_image_seq_len` tokens.
    pub base_shift: f64,
    /// Shift exponent at `max_image_seq_len` tokens.
    pub max_shift: f64,
    /// Tokens of a 256 x 256 picture.
    pub base_image_seq_len: usize,
    /// Tokens of a 1024 x 1024 picture.
    pub max_image_seq_len: usize,
    /// Stretch to a last sigma above 0; other families use it.
    pub shift_terminal: Option<f64>,
    /// `exponential`, or `linear` in other families.
    pub time_shift_type: String,
    /// Noise added at each step.
    pub stochastic_sampling: bool,
    /// Sigma counted the other way round.
    pub invert_sigmas: bool,
    /// Another spacing.
    pub use_karras_sigmas: Option<bool>,
    /// Another spacing.
    pub use_exponential_sigmas: Option<bool>,
    /// Another spacing.
    pub use_beta_sigmas: Option<bool>,
}

impl Default for FlowMatchConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            shift_terminal: None,
            time_shift_type: "exponential".to_owned(),
            stochastic_sampling: false,
            invert_sigmas: false,
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            use_beta_sigmas: None,
        }
    }
}

/// The scheduler: a checked configuration.
#[derive(Debug, Clone)]
pub struct FlowMatch {
    config: FlowMatchConfig,
}

impl FlowMatch {
    /// Checks that the configuration is one that is computed here.
    ///
    /// # Errors
    /// [`ScheduleError::Unsupported`] for options that FLUX does not use and that would change every sigma.
    pub fn new(config: FlowMatchConfig) -> std::result::Result<Self, ScheduleError> {
        let off = |option, on: bool| {
            if on {
                return Err(ScheduleError::Unsupported {
                    option,
                    found: "true".into(),
                    supported: "`false`",
                });
            }
            Ok(())
        };
        off("stochastic_sampling", config.stochastic_sampling)?;
        off("invert_sigmas", config.invert_sigmas)?;
        off("use_karras_sigmas", config.use_karras_sigmas == Some(true))?;
        off("use_exponential_sigmas", config.use_exponential_sigmas == Some(true))?;
        off("use_beta_sigmas", config.use_beta_sigmas == Some(true))?;
        // Python takes 0 for "not set".
        if let Some(terminal) = config.shift_terminal.filter(|&terminal| terminal != 0.0) {
            let found = terminal.to_string();
            return Err(ScheduleError::Unsupported { option: "shift_terminal", found, supported: "`null`" });
        }
        if config.time_shift_type != "exponential" {
            let found = config.time_shift_type;
            return Err(ScheduleError::Unsupported {
                option: "time_shift_type",
                found,
                supported: "`exponential`",
            });
        }
        if config.max_image_seq_len == config.base_image_seq_len {
            return Err(ScheduleError::Unsupported {
                option: "max_image_seq_len",
                found: config.max_image_seq_len.to_string(),
                supported: "values other than base_image_seq_len",
            });
        }
        Ok(Self { config })
    }

    /// The schedule of `steps` steps for a picture of `image_tokens` packed latents (height/16 x width/16).
    ///
    /// # Errors
    /// No steps, or more than the model was trained on.
    pub fn schedule(
        &self,
        steps: usize,
        image_tokens: usize,
    ) -> std::result::Result<FlowSchedule, ScheduleError> {
        if steps == 0 || steps > self.config.num_train_timesteps {
            return Err(ScheduleError::steps(steps, self.config.num_train_timesteps));
        }
        let mut sigmas: Vec<f32> = linspace(1.0, 1.0 / steps as f64, steps)
            .into_iter()
            .map(|sigma| self.shifted(sigma as f32, image_tokens))
            .collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * self.config.num_train_timesteps as f32).collect();
        sigmas.push(0.0);
        Ok(FlowSchedule { sigmas, timesteps })
    }

    /// numpy keeps an f32 array f32 when a Python number joins in: each operation below rounds once.
    fn shifted(&self, sigma: f32, image_tokens: usize) -> f32 {
        if self.config.use_dynamic_shifting {
            let shift = self.mu(image_tokens).exp() as f32;
            shift / (shift + (1.0 / sigma - 1.0))
        } else {
            let shift = self.config.shift;
            (shift as f32 * sigma) / (1.0 + (shift - 1.0) as f32 * sigma)
        }
    }

    /// The shift's exponent: linear in the number of image tokens, beyond both ends too.
    pub fn mu(&self, image_tokens: usize) -> f64 {
        let c = &self.config;
        let slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len as f64 - c.base_image_seq_len as f64);
        image_tokens as f64 * slope + (c.base_shift - slope * c.base_image_seq_len as f64)
    }
}

/// Sigmas and timesteps of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowSchedule {
    /// One more than there are steps; the last is 0.
    pub sigmas: Vec<f32>,
    /// What the net is told: sigma times 1000.
    pub timesteps: Vec<f32>,
}

impl FlowSchedule {
    /// Index of the first step when a picture is changed by `strength` (0 none, 1 all): image to image and inpainting
    /// walk `start..timesteps.len()`.
    ///
    /// # Errors
    /// `strength` outside 0 to 1, or so small that no step is left.
    pub fn start(&self, strength: f64) -> std::result::Result<usize, ScheduleError> {
        let steps = self.timesteps.len();
        if !(0.0..=1.0).contains(&strength) {
            return Err(ScheduleError::OutOfRange {
                what: "strength",
                expected: "0 to 1".into(),
                found: strength.to_string(),
            });
        }
        let changed = (steps as f64 * strength).min(steps as f64);
        let start = (steps as f64 - changed).max(0.0) as usize;
        if start >= steps {
            return Err(ScheduleError::OutOfRange {
                what: "strength",
                expected: format!("at least 1/{steps}, so that one of the {steps} steps is left"),
                found: strength.to_string(),
            });
        }
        Ok(start)
    }

    /// One Euler step: `sample + (sigma[i+1] - sigma[i]) * prediction`, in `prediction`'s dtype.
    ///
    /// In half precision torch rounds the difference and the product, adds in f32 and rounds the sum.
    ///
    /// # Errors
    /// `index` beyond the last step; shapes that differ.
    pub fn step(&self, index: usize, sample: &Tensor, prediction: &Tensor) -> Result<Tensor> {
        let (Some(&from), Some(&to)) = (self.sigmas.get(index), self.sigmas.get(index + 1)) else {
            candle_core::bail!("flow match step {index}: the schedule has {} steps", self.timesteps.len());
        };
        let change = times(prediction, to - from)?.to_dtype(DType::F32)?;
        (sample.to_dtype(DType::F32)? + change)?.to_dtype(prediction.dtype())
    }

    /// The latent at the start of step `index`: `sigma * noise + (1 - sigma) * sample`, in `sample`'s dtype, to which
    /// sigma is rounded first.
    ///
    /// # Errors
    /// `index` beyond the schedule; shapes that differ.
    pub fn add_noise(&self, index: usize, sample: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let Some(&sigma) = self.sigmas.get(index) else {
            candle_core::bail!("flow match noise level {index}: the schedule has {}", self.sigmas.len());
        };
        let sigma = rounded(sigma, sample.dtype());
        times(noise, sigma)? + times(sample, 1.0 - sigma)?
    }
}

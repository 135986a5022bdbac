//! What tells every residual block about the noise level, the pooled prompt and the picture's sizes.

use candle_core::{DType, Device, Module, Result, Tensor};

use super::TIME_IDS;
use super::config::{Shape, TrunkConfig};
use crate::models::ops::{self, Linear};
use crate::models::weights::Weights;

/// Two linear layers with SiLU between.
#[derive(Debug, Clone)]
struct Projection {
    first: Linear,
    second: Linear,
}

impl Projection {
    fn new(inputs: usize, outputs: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            first: w.pp("linear_1").linear(inputs, outputs, true)?,
            second: w.pp("linear_2").linear(outputs, outputs, true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&ops::silu(&self.first.forward(x)?)?)
    }
}

/// `time_embedding` and `add_embedding`.
#[derive(Debug, Clone)]
pub(super) struct Embedder {
    time: Projection,
    waves: usize,
    addition: Projection,
    id_waves: usize,
    dtype: DType,
    device: Device,
}

impl Embedder {
    pub(super) fn new(config: &TrunkConfig, shape: &Shape, w: &Weights) -> Result<Self> {
        let (pooled, id_waves) = config.additions()?;
        Ok(Self {
            time: Projection::new(shape.outermost, shape.time(), &w.pp("time_embedding"))?,
            waves: shape.outermost,
            addition: Projection::new(pooled + TIME_IDS * id_waves, shape.time(), &w.pp("add_embedding"))?,
            id_waves,
            dtype: w.dtype(),
            device: w.device().clone(),
        })
    }

    /// The part that does not change from step to step, for `pooled` (batch, pooled channels) and each row's ids: (batch,
    /// time channels).
    pub(super) fn additions(&self, pooled: &Tensor, ids: &[[f32; TIME_IDS]]) -> Result<Tensor> {
        let flat: Vec<f32> = ids.iter().flatten().map(|&id| rounded(id, self.dtype)).collect();
        let waves =
            sinusoids(&flat, self.id_waves, &self.device)?.reshape((ids.len(), TIME_IDS * self.id_waves))?;
        let both = Tensor::cat(&[&pooled.to_dtype(DType::F32)?, &waves], 1)?;
        self.addition.forward(&both.to_dtype(self.dtype)?)
    }

    /// `silu(time embedding + additions)`, which is what all residual blocks project.
    pub(super) fn forward(&self, timestep: f32, additions: &Tensor) -> Result<Tensor> {
        let time =
            self.time.forward(&sinusoids(&[timestep], self.waves, &self.device)?.to_dtype(self.dtype)?)?;
        ops::silu(&time.broadcast_add(additions)?)
    }
}

/// diffusers keeps the ids in the prompt's dtype; a size such as 1001 is no bf16 number.
fn rounded(id: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => half::bf16::from_f32(id).to_f32(),
        DType::F16 => half::f16::from_f32(id).to_f32(),
        _ => id,
    }
}

/// Cosines, then sines, of each value at geometrically falling frequencies, f32: (values, channels).
pub(super) fn sinusoids(values: &[f32], channels: usize, device: &Device) -> Result<Tensor> {
    let half = channels / 2;
    let mut out = Vec::with_capacity(values.len() * 2 * half);
    for value in values {
        let angles: Vec<f32> = (0..half).map(|wave| value * frequency(wave, half)).collect();
        out.extend(angles.iter().map(|angle| angle.cos()));
        out.extend(angles.iter().map(|angle| angle.sin()));
    }
    Tensor::from_vec(out, (values.len(), 2 * half), device)
}

/// `exp(-ln(10000) wave / half)` in f32 as torch on a CPU has it.
///
/// Its exponential is not correctly rounded. Over SDXL's two tables (160 and 128 waves) it is one step too high at the
/// waves listed; at the last timestep such a step turns the angle by 6e-5.
fn frequency(wave: usize, half: usize) -> f32 {
    let exponent = -10000f64.ln() as f32 * wave as f32 / half as f32;
    let exact = f64::from(exponent).exp() as f32;
    match (half, wave) {
        (160, 2 | 55) | (128, 13 | 44 | 119) => exact.next_up(),
        _ => exact,
    }
}

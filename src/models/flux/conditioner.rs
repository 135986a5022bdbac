//! Timestep, guidance and pooled text into the shifts, scales and gates of every block, for all steps at once.
//!
//! They depend on nothing else, so the 3.25 billion weights here run once a request and then have no use: the tables
//! they leave are 2.1 MB a step.

use candle_core::{DType, Device, Module, Result, Tensor};

use super::blocks::{Adaptation, StreamAdaptation};
use super::config::FluxConfig;
use crate::models::ops::{self, Linear};
use crate::models::weights::{Blocks, Weights};

/// Channels of the sinusoids.
const WAVES: usize = 256;

#[derive(Debug, Clone)]
struct Embedder {
    first: Linear,
    second: Linear,
}

impl Embedder {
    fn new(inputs: usize, config: &FluxConfig, w: &Weights) -> Result<Self> {
        Ok(Self {
            first: w.pp("linear_1").linear(inputs, config.inner(), true)?,
            second: w.pp("linear_2").linear(config.inner(), config.inner(), true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&ops::silu(&self.first.forward(x)?)?)
    }
}

/// `time_text_embed` and every block's modulation layer.
#[derive(Debug, Clone)]
pub struct Conditioner {
    timestep: Embedder,
    guidance: Option<Embedder>,
    text: Embedder,
    /// (text, image) of each double block: shift, scale, gate of attention, then of the feed forward.
    double: Blocks<(Linear, Linear)>,
    /// Shift, scale, gate of each single block.
    single: Blocks<Linear>,
    /// Scale, then shift.
    last: Linear,
    dtype: DType,
    device: Device,
}

impl Conditioner {
    /// Reads from the root of a transformer's weights.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn new(config: &FluxConfig, w: &Weights) -> Result<Self> {
        let inner = config.inner();
        let embed = w.pp("time_text_embed");
        let double = move |block: &Weights| -> Result<(Linear, Linear)> {
            Ok((
                block.pp("norm1_context.linear").linear(inner, 6 * inner, true)?,
                block.pp("norm1.linear").linear(inner, 6 * inner, true)?,
            ))
        };
        let single = move |block: &Weights| block.pp("norm.linear").linear(inner, 3 * inner, true);
        Ok(Self {
            timestep: Embedder::new(WAVES, config, &embed.pp("timestep_embedder"))?,
            guidance: if config.guidance_embeds {
                Some(Embedder::new(WAVES, config, &embed.pp("guidance_embedder"))?)
            } else {
                None
            },
            text: Embedder::new(config.pooled_projection_dim, config, &embed.pp("text_embedder"))?,
            double: Blocks::new(&w.pp("transformer_blocks"), config.num_layers, double)?,
            single: Blocks::new(&w.pp("single_transformer_blocks"), config.num_single_layers, single)?,
            last: w.pp("norm_out.linear").linear(inner, 2 * inner, true)?,
            dtype: w.dtype(),
            device: w.device().clone(),
        })
    }

    /// The tables for `timesteps` (0..=1000, as the scheduler gives them), `guidance` (ignored by models that have no
    /// input for it) and `pooled` (batch, pooled channels).
    ///
    /// diffusers casts the timestep to the latents' dtype, divides and multiplies it by 1000 in that dtype, and rounds
    /// guidance likewise: 3.5 becomes 3504 in bf16.
    ///
    /// # Errors
    /// Shapes that do not match, or no room on the device.
    pub fn precompute(&self, timesteps: &[f32], guidance: f32, pooled: &Tensor) -> Result<Modulation> {
        let times = Tensor::from_slice(timesteps, timesteps.len(), &Device::Cpu)?.to_dtype(self.dtype)?;
        let fractions: Vec<f32> =
            times.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().map(|time| time / 1000.0).collect();
        self.precompute_at(&fractions, guidance, pooled)
    }

    /// [`Conditioner::precompute`] from timesteps already divided by 1000, as the model's own input has them.
    ///
    /// # Errors
    /// As [`Conditioner::precompute`].
    pub fn precompute_at(&self, fractions: &[f32], guidance: f32, pooled: &Tensor) -> Result<Modulation> {
        let steps = fractions.len();
        let fractions = Tensor::from_slice(fractions, steps, &Device::Cpu)?.to_dtype(self.dtype)?;
        let text = self.text.forward(&pooled.to_dtype(self.dtype)?)?;
        let (batch, inner) = text.dims2()?;
        let time = self.timestep.forward(&self.waves(&fractions)?)?;
        let time = match &self.guidance {
            Some(embedder) => {
                let scale = Tensor::new(&[guidance], &Device::Cpu)?.to_dtype(self.dtype)?;
                time.broadcast_add(&embedder.forward(&self.waves(&scale)?)?)?
            }
            None => time,
        };
        let conditioning =
            time.unsqueeze(1)?.broadcast_add(&text.unsqueeze(0)?)?.reshape((steps * batch, inner))?;
        let active = ops::silu(&conditioning)?;
        let table = |layer: &Linear| layer.forward(&active)?.reshape((steps, batch, ()));
        Ok(Modulation {
            double: (0..self.double.len())
                .map(|index| self.double.with(index, |(text, image)| Ok((table(text)?, table(image)?))))
                .collect::<Result<_>>()?,
            single: (0..self.single.len())
                .map(|index| self.single.with(index, table))
                .collect::<Result<_>>()?,
            last: table(&self.last)?,
        })
    }

    /// Sinusoids of `1000 x`, the product rounded to the compute dtype: cosines, then sines, (n, 256).
    fn waves(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x.to_dtype(DType::F32)? * 1000.0)?
            .to_dtype(self.dtype)?
            .to_dtype(DType::F32)?
            .to_vec1::<f32>()?;
        let mut out = Vec::with_capacity(x.len() * WAVES);
        for at in &x {
            let angles: Vec<f32> = (0..WAVES / 2).map(|wave| at * frequency(wave)).collect();
            out.extend(angles.iter().map(|angle| angle.cos()));
            out.extend(angles.iter().map(|angle| angle.sin()));
        }
        Tensor::from_vec(out, (x.len(), WAVES), &self.device)?.to_dtype(self.dtype)
    }
}

/// `exp(-ln(10000) wave / 128)` as torch on a CPU has it.
///
/// Its exponential is not correctly rounded: of these 128 values it misses three, by one step upwards. At a guidance of
/// 3.5 the angles reach 3500, where that step is 2e-4 of a radian.
fn frequency(wave: usize) -> f32 {
    let exponent = -10000f64.ln() as f32 * wave as f32 / (WAVES / 2) as f32;
    let rounded = f64::from(exponent).exp() as f32;
    if matches!(wave, 13 | 44 | 119) { rounded.next_up() } else { rounded }
}

/// Every block's shifts, scales and gates for every step: (steps, batch, k x inner) each.
#[derive(Debug, Clone)]
pub struct Modulation {
    double: Vec<(Tensor, Tensor)>,
    single: Vec<Tensor>,
    last: Tensor,
}

impl Modulation {
    /// Those of one step.
    pub fn step(&self, index: usize) -> StepModulation<'_> {
        StepModulation { tables: self, index }
    }
}

/// One step's row of [`Modulation`].
#[derive(Debug, Clone, Copy)]
pub struct StepModulation<'a> {
    tables: &'a Modulation,
    index: usize,
}

impl StepModulation<'_> {
    /// (text, image) of a double block.
    pub(super) fn double(&self, block: usize) -> Result<(StreamAdaptation, StreamAdaptation)> {
        let (text, image) = of(&self.tables.double, block)?;
        Ok((self.stream(text)?, self.stream(image)?))
    }

    pub(super) fn single(&self, block: usize) -> Result<Adaptation> {
        adaptation(&chunks::<3>(&of(&self.tables.single, block)?.get(self.index)?)?, 0)
    }

    /// (shift, scale) before the last projection; stored the other way round.
    pub(super) fn last(&self) -> Result<(Tensor, Tensor)> {
        let [scale, shift] = chunks::<2>(&self.tables.last.get(self.index)?)?;
        Ok((shift, scale))
    }

    fn stream(&self, table: &Tensor) -> Result<StreamAdaptation> {
        let parts = chunks::<6>(&table.get(self.index)?)?;
        Ok(StreamAdaptation { attention: adaptation(&parts, 0)?, feed_forward: adaptation(&parts, 3)? })
    }
}

fn adaptation(parts: &[Tensor], from: usize) -> Result<Adaptation> {
    let part = |offset| of(parts, from + offset).cloned();
    Ok(Adaptation { shift: part(0)?, scale: part(1)?, gate: part(2)? })
}

fn of<T>(list: &[T], index: usize) -> Result<&T> {
    list.get(index)
        .ok_or_else(|| candle_core::Error::Msg(format!("no block {index}: the model has {}", list.len())))
}

fn chunks<const N: usize>(row: &Tensor) -> Result<[Tensor; N]> {
    let parts = row.chunk(N, 1)?.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    parts
        .try_into()
        .map_err(|parts: Vec<Tensor>| candle_core::Error::Msg(format!("{} parts, expected {N}", parts.len())))
}

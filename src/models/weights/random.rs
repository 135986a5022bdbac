//! Tensors drawn from a seed when they are asked for: a checkpoint of any size that lies nowhere.
//!
//! For measuring full-size nets without their files. Which tensors there are, the net itself says (its constructor is run
//! on a [`Probe`]). A number depends on seed, key and place alone, so every device gets the same weights.
//! Callers: the benchmark, tests; `tiny` takes [`spread`] from here.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Format, Loaded, Meta, Probe, Source, Weights};

/// Numbers that one thread draws at a time.
const CHUNK: usize = 1 << 16;

/// Random tensors under a net's keys.
pub struct Random {
    shapes: HashMap<String, Vec<usize>>,
    dtype: DType,
    seed: u64,
}

impl Random {
    /// Everything that `build` asks for, stored as `dtype` (f32, bf16 or f16). Sizes keep activations near 1.
    ///
    /// # Errors
    /// The net refuses its configuration.
    pub fn new(dtype: DType, seed: u64, build: impl FnOnce(&Weights) -> Result<()>) -> Result<Self> {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe))?;
        let shapes = probe.expected().into_iter().map(|tensor| (tensor.key, tensor.shape)).collect();
        Ok(Self { shapes, dtype, seed })
    }
}

impl Source for Random {
    fn meta(&self, key: &str) -> Option<Meta> {
        let shape = self.shapes.get(key)?.clone();
        Some(Meta { shape, format: Format::Dense(self.dtype) })
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        let whole = self.shapes.get(key).ok_or_else(|| Error::CannotFindTensor { path: key.to_owned() })?;
        let mut shape = whole.clone();
        let mut first = 0;
        if let (Some(rows), Some(count)) = (rows, shape.first_mut()) {
            first = rows.start * whole.iter().skip(1).product::<usize>();
            *count = rows.len();
        }
        let (deviation, centre) = spread(key, whole);
        let draw = Draw { seed: self.seed ^ fnv(key), first, deviation, centre };
        draw.tensor(shape, self.dtype, device).map(Loaded::Dense)
    }

    fn keys(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn origin(&self, _: &str) -> String {
        format!("random weights of seed {}", self.seed)
    }
}

/// Numbers of mean 0 and deviation 1 in `dtype` (f32, bf16 or f16), the same for a seed on every device.
///
/// # Errors
/// Another dtype; no room on the device.
pub fn random_tensor(seed: u64, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    random_tensor_around(seed, shape, (1.0, 0.0), dtype, device)
}

/// [`random_tensor`] of another deviation and mean.
///
/// # Errors
/// As [`random_tensor`].
pub fn random_tensor_around(
    seed: u64,
    shape: impl Into<Shape>,
    (deviation, centre): (f64, f64),
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Draw { seed, first: 0, deviation, centre }.tensor(shape, dtype, device)
}

/// Deviation and mean of a weight's numbers: activations stay near 1 through any number of layers, and nothing is left at
/// a start value that would hide a branch.
pub(crate) fn spread(key: &str, shape: &[usize]) -> (f64, f64) {
    let inputs: usize = shape.iter().skip(1).product();
    if key.ends_with("_embedding.weight") || key == "shared.weight" {
        (0.7, 0.0)
    } else if key.ends_with("relative_attention_bias.weight") || key.ends_with("relative_position_bias_table")
    {
        (0.5, 0.0)
    } else if shape.len() > 1 {
        (1.0 / (inputs as f64).sqrt(), 0.0)
    } else if key.ends_with("weight") || key.ends_with("running_var") {
        (0.1, 1.0)
    } else {
        (0.05, 0.0)
    }
}

/// FNV-1a: a seed for each key that does not depend on the order of keys.
pub(crate) fn fnv(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A stretch of an endless sequence.
struct Draw {
    seed: u64,
    /// Index of the first number.
    first: usize,
    deviation: f64,
    centre: f64,
}

impl Draw {
    fn tensor(&self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        match dtype {
            DType::F32 => Tensor::from_vec(self.numbers(count, |x| x), shape, device),
            DType::BF16 => Tensor::from_vec(self.numbers(count, bf16::from_f32), shape, device),
            DType::F16 => Tensor::from_vec(self.numbers(count, f16::from_f32), shape, device),
            other => Err(Error::Msg(format!("random numbers as {other:?}; expected f32, bf16 or f16"))),
        }
    }

    fn numbers<T: Copy + Default + Send + Sync>(
        &self,
        count: usize,
        round: impl Fn(f32) -> T + Sync,
    ) -> Vec<T> {
        let mut out = vec![T::default(); count];
        // The sum of two uniform numbers in [0, 1) has mean 1 and variance 1/6.
        let (scale, shift) = ((self.deviation * 6f64.sqrt()) as f32, self.centre as f32);
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let first = (self.first + chunk * CHUNK) as u64;
            for (offset, out) in out.iter_mut().enumerate() {
                let bits = mixed(self.seed, first + offset as u64);
                let uniform = |bits: u64| bits as u32 as f32 * (1.0 / 4294967296.0);
                *out = round((uniform(bits) + uniform(bits >> 32) - 1.0) * scale + shift);
            }
        });
        out
    }
}

/// Number `index` of SplitMix64's sequence (Steele, Lea and Flood, 2014).
fn mixed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! Random normals equal, bit for bit, to `torch.randn` with a CPU generator (torch >= 2.13 on x86-64 with AVX2 or AVX-512).
//!
//! Owns the generator state and the order in which its draws are used: the same seed must give the same picture as
//! diffusers gives, so a host generator is used on every device. Knows no shapes of latents and no models; the
//! pipelines and the VAE's sampling call it. CUDA generators (Philox) are another sequence and out of scope.

mod mathfun;
mod mt19937;

use candle_core::{DType, Device, Result, Shape, Tensor};

use crate::models::device::send;
use mt19937::Mt19937;

/// Values that torch transforms together: eight radii and eight angles.
const BLOCK: usize = 16;

/// A `torch.Generator("cpu")`.
///
/// Draws of fewer than 16 values use double precision and keep a spare value for the next small draw, as torch does, so
/// the *sequence* of draw sizes matters, not only their sum.
#[derive(Clone, Debug)]
pub struct Generator {
    engine: Mt19937,
    /// The sine half of the last pair that a small draw made and did not use.
    spare: Option<f64>,
}

impl Generator {
    /// The generator after `torch.Generator("cpu").manual_seed(seed)`. Like torch, only the low 32 bits count; a negative
    /// seed is its two's complement (`-5_i64 as u64`).
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed as u32), spare: None }
    }

    /// The values of `torch.randn(n, generator=self)`, in f32.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        self.draw(n, n)
    }

    /// `torch.randn(shape, generator=self, dtype=dtype)` moved to `device`.
    ///
    /// In bf16 and f16 torch >= 2.13 rounds f32 numbers, but takes no uniforms for an incomplete last block: the sequence
    /// differs from f32's where the number of values is no multiple of 16.
    ///
    /// # Errors
    /// What the device reports.
    pub fn randn(&mut self, shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let n = shape.elem_count();
        let values = match dtype {
            DType::BF16 | DType::F16 => self.draw(n, n - n % BLOCK),
            _ => self.draw(n, n),
        };
        send(&Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?, device)
    }

    /// `n` normals, with uniforms for the first `filled` before those of the tail.
    fn draw(&mut self, n: usize, filled: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.small() as f32).collect();
        }
        let mut out = vec![0f32; n];
        for value in &mut out[..filled] {
            *value = self.uniform24();
        }
        for block in out.as_chunks_mut::<BLOCK>().0 {
            mathfun::box_muller(block);
        }
        if !n.is_multiple_of(BLOCK) {
            // torch redoes the last sixteen from fresh uniforms, whatever part of them was already filled.
            let mut tail = [0f32; BLOCK];
            tail.fill_with(|| self.uniform24());
            mathfun::box_muller(&mut tail);
            out[n - BLOCK..].copy_from_slice(&tail);
        }
        out
    }

    /// A uniform in [0, 1) with 24 bits, from one 32-bit draw.
    fn uniform24(&mut self) -> f32 {
        (self.engine.next() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// One normal in double precision, by pairs.
    fn small(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * std::f64::consts::PI * self.uniform53();
        let radius = (-2.0 * (-self.uniform53()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// A uniform in [0, 1) with 53 bits; the high word is drawn first.
    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.engine.next());
        let low = u64::from(self.engine.next());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

//! Rows in 8 bits a number and a scale a row: the two formats, and how a number gets there and back.
//!
//! Pure but for asking a device what it can do. The loops have no branch and no call, so that they become vector code on any
//! processor: with no more than SSE2 one thread of an EPYC rounds 2 GB/s of bf16 to e4m3 and 4 to int8. Must not know tensors or files. Callers: [`super::Eight`],
//! [`super::Int8`], the loader.

use std::fmt;

use candle_core::Device;

#[cfg(feature = "cuda")]
use crate::cuda::{eight as kernel, launch};

/// How 8 bits stand for a number of a row whose largest magnitude is `m`: `number · scale`, f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// 4 bits of exponent, 3 of mantissa, up to 448; scale m / 448. What a product reads is rounded likewise.
    E4m3,
    /// -127 to 127 in two's complement; scale m / 127. What a product reads stays as it is.
    Int8,
}

impl fmt::Display for Rounding {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::E4m3 => "fp8",
            Self::Int8 => "int8",
        })
    }
}

impl Rounding {
    /// Largest number.
    const fn largest(self) -> f32 {
        match self {
            Self::E4m3 => 448.0,
            Self::Int8 => 127.0,
        }
    }

    /// Whether products with such weights run on `device`: e4m3 on cards from compute capability 8.9 on, int8 on all. A CPU
    /// imitates both.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(unused_variables, clippy::unused_self, reason = "a CPU takes both")
    )]
    pub fn suits(self, device: &Device) -> bool {
        #[cfg(feature = "cuda")]
        if let (Self::E4m3, Some(card)) = (self, launch::card(device)) {
            return kernel::available(card);
        }
        true
    }

    /// Whether a matrix of this shape can be kept so: rows in packs of 16 bytes, as kernels read and write them.
    pub fn fits(outputs: usize, inputs: usize) -> bool {
        outputs.is_multiple_of(16) && inputs.is_multiple_of(16)
    }

    /// Rounds `row` to the nearest numbers, ties to even, into `numbers`, which is as long; gives the scale, 1 for a row of
    /// zeros.
    pub fn row(self, row: &[f32], numbers: &mut [u8]) -> f32 {
        // As integers, magnitudes have the same order and their maximum needs no care for what is not a number.
        let largest = row.iter().fold(0, |largest: i32, x| largest.max(magnitude(*x)));
        let largest = f32::from_bits(largest as u32);
        let scale = if largest > 0.0 { largest / self.largest() } else { 1.0 };
        let factor = 1.0 / scale;
        let all = numbers.iter_mut().zip(row);
        match self {
            Self::E4m3 => all.for_each(|(number, x)| *number = e4m3(x * factor)),
            Self::Int8 => all.for_each(|(number, x)| *number = int8(x * factor)),
        }
        scale
    }

    /// Numbers and scales of rows of `columns`.
    pub(super) fn rows(self, wide: &[f32], columns: usize) -> (Vec<u8>, Vec<f32>) {
        let columns = columns.max(1);
        let mut numbers = vec![0; wide.len()];
        let rows = wide.chunks(columns).zip(numbers.chunks_mut(columns));
        let scales = rows.map(|(row, numbers)| self.row(row, numbers)).collect();
        (numbers, scales)
    }

    /// What [`Rounding::rows`] made, as the nearest f32.
    pub(super) fn widened(self, numbers: &[u8], scales: &[f32], columns: usize) -> Vec<f32> {
        let table: Vec<f32> = (0..=u8::MAX).map(|code| self.number(code)).collect();
        let mut wide = Vec::with_capacity(numbers.len());
        for (row, scale) in numbers.chunks(columns.max(1)).zip(scales) {
            wide.extend(row.iter().map(|&code| table.get(usize::from(code)).map_or(0.0, |x| x * scale)));
        }
        wide
    }

    /// The number behind a code. In e4m3 0x7f and 0xff are none.
    fn number(self, code: u8) -> f32 {
        if self == Self::Int8 {
            return f32::from(code as i8);
        }
        let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        match (exponent, code & 7) {
            (15, 7) => f32::NAN,
            (0, _) => sign * mantissa / 512.0,
            _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        }
    }
}

/// |x| as the bits of a number, which order as magnitudes do.
fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// To the nearest e4m3 number, held within ±448.
pub(super) fn e4m3(x: f32) -> u8 {
    let sign = x.to_bits() >> 24 & 0x80;
    let held = magnitude(x).min(448f32.to_bits() as i32);
    let bits = held as u32;
    // Below 2⁻⁶ numbers are multiples of 2⁻⁹, which is what the mantissa counts beside 2¹⁴; eight of them are 2⁻⁶, whose code
    // follows theirs.
    let small = (f32::from_bits(bits) + 16384.0).to_bits() & 15;
    // Twenty of the 23 bits of the mantissa go; a carry moves into the exponent, as it should, which from then on counts from
    // -7 instead of -127.
    let normal = ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    (sign | if held < 0.015625f32.to_bits() as i32 { small } else { normal }) as u8
}

/// To the nearest integer; |x| at most 127 and a half. Beside 1.5 · 2²³ the mantissa counts ones.
fn int8(x: f32) -> u8 {
    (x + 12_582_912.0).to_bits() as u8
}

//! Random-looking fields without state: integer hashes and value noise.
//!
//! Integer arithmetic, f32 addition and multiplication only, so every machine gets the same bits.

/// 64 bits from 64 bits (the finaliser of SplitMix64).
pub fn mix64(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number that stands for a text.
pub fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| mix64(hash ^ u64::from(byte)))
}

/// A family of fields.
#[derive(Debug, Clone, Copy)]
pub struct Noise(u32);

impl Noise {
    /// The family of `seed`; `channel` tells fields of one seed apart.
    pub fn new(seed: u64, channel: u64) -> Self {
        Self(mix64(seed ^ channel.wrapping_mul(0x2545_f491_4f6c_dd1d)) as u32)
    }

    /// 0..1 at a lattice point.
    pub fn cell(self, x: i32, y: i32) -> f32 {
        let mut h = (x as u32).wrapping_mul(0x85eb_ca6b) ^ (y as u32).wrapping_mul(0xc2b2_ae35) ^ self.0;
        h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
        h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
        ((h ^ (h >> 15)) >> 8) as f32 / 16_777_216.0
    }

    /// 0..1, smooth, with features of size 1.
    pub fn at(self, x: f32, y: f32) -> f32 {
        let (fx, fy) = (x.floor(), y.floor());
        let (ix, iy) = (fx as i32, fy as i32);
        let (tx, ty) = (smooth(x - fx), smooth(y - fy));
        let top = lerp(self.cell(ix, iy), self.cell(ix.wrapping_add(1), iy), tx);
        let bottom =
            lerp(self.cell(ix, iy.wrapping_add(1)), self.cell(ix.wrapping_add(1), iy.wrapping_add(1)), tx);
        lerp(top, bottom, ty)
    }

    /// `octaves` of noise, each of half the size and strength of the last; 0..1.
    pub fn layered(self, x: f32, y: f32, octaves: u32) -> f32 {
        let (mut sum, mut weight, mut frequency, mut total) = (0.0, 1.0, 1.0, 0.0);
        for octave in 0..octaves {
            let shift = octave as f32 * 17.3;
            sum += weight * self.at(x * frequency + shift, y * frequency - shift);
            total += weight;
            weight *= 0.5;
            frequency *= 2.0;
        }
        sum / total
    }
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Straight line from `a` to `b`.
pub fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// [`lerp`] of each channel.
pub fn lerp3(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    std::array::from_fn(|c| lerp(a[c], b[c], t))
}

/// 0 below `from`, 1 above `to`, smooth between.
pub fn smoothstep(from: f32, to: f32, value: f32) -> f32 {
    smooth(((value - from) / (to - from)).clamp(0.0, 1.0))
}

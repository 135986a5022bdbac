//! The Box-Muller step in the arithmetic of torch's vectorised CPU kernels.
//!
//! torch evaluates `log`, `sin` and `cos` here with the Cephes polynomials of the "AVX mathfun" library, compiled with
//! fused multiply-add, and not with the C library: about one value in a few hundred differs in its last bit between
//! the two. Each `mul_add` below stands where the compiler fused, each plain operation where it did not; neither may be
//! "simplified".
//!
//! `f32::mul_add` is the correctly rounded operation on every CPU. Compiled for a baseline x86-64 it is a call of the C
//! library's `fmaf`, which picks the hardware instruction at load time; with `-C target-cpu=x86-64-v3` the loops become vector code.
//! On a CPU without FMA it is computed in software: several times slower, with the same bits.

use std::array;

/// Values of one polynomial step; half a block.
const LANES: usize = 8;
type Lanes = [f32; LANES];

/// Turns sixteen uniforms of [0, 1) into sixteen normals: the first eight give the radius, the last eight the angle.
pub(super) fn box_muller(block: &mut [f32; 2 * LANES]) {
    let radius: Lanes = array::from_fn(|i| (-2.0 * log(1.0 - block[i])).sqrt());
    let angle: Lanes = array::from_fn(|i| std::f32::consts::TAU * block[LANES + i]);
    for i in 0..LANES {
        let (sin, cos) = sin_cos(angle[i]);
        block[i] = radius[i] * cos;
        block[LANES + i] = radius[i] * sin;
    }
}

/// Cephes `logf` for x in (0, 1].
#[inline]
fn log(x: f32) -> f32 {
    const POLY: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // 1 - u with 24-bit u is never below 2^-24, but torch clamps to the smallest normal number all the same.
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let exponent = (bits >> 23) as i32 - 0x7f;
    let mantissa = f32::from_bits((bits & !0x7f80_0000) | 0x3f00_0000);
    let low = mantissa < std::f32::consts::FRAC_1_SQRT_2;
    let e = (exponent as f32 + 1.0) - if low { 1.0 } else { 0.0 };
    let x = (mantissa - 1.0) + if low { mantissa } else { 0.0 };
    let z = x * x;
    let mut y = POLY[0];
    for p in &POLY[1..] {
        y = y.mul_add(x, *p);
    }
    y *= x;
    y = y.mul_add(z, e * -2.121_944_4e-4);
    y -= z * 0.5;
    e.mul_add(0.693_359_4, x + y)
}

/// Cephes `sinf` and `cosf` for x in [0, 2 pi).
#[inline]
fn sin_cos(x: f32) -> (f32, f32) {
    // Octant, rounded up to even, so that the remainder lies in [-pi/4, pi/4].
    let octant = ((x * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let q = octant as f32;
    // pi/4 in three parts, each exact in its product with a small integer.
    let x = q.mul_add(-0.785_156_25, x);
    let x = q.mul_add(-2.418_756_5e-4, x);
    let x = q.mul_add(-3.774_895e-8, x);
    let z = x * x;
    let c = 2.443_315_7e-5f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2);
    let c = (c * z).mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_6e-4f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1);
    let s = (s * z).mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    (if octant & 4 == 0 { sin } else { -sin }, if !(octant - 2) & 4 == 0 { cos } else { -cos })
}

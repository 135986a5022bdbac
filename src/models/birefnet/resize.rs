//! Bilinear resizing of feature maps with aligned corners, with torch's weights.
//!
//! candle's own computes positions in f64, torch in f32: over 1024 pixels the weights differ by up to 1e-5.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x` (batch, channels, h, w) -> (batch, channels, height, width); corner pixels keep their places
/// (`F.interpolate(mode="bilinear", align_corners=True)`). f32 inside, rounded once. An unchanged size is a copy.
///
/// # Errors
/// A side of 0.
pub fn resize(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if (h, w) == (height, width) {
        return Ok(x.clone());
    }
    if [h, w, height, width].contains(&0) {
        candle_core::bail!("resize of a feature map from {h} x {w} to {height} x {width}: no side may be 0");
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        use crate::cuda::picture::{Filter, resize};
        return resize(x, height, width, Filter::Bilinear);
    }
    x.to_dtype(DType::F32)?.contiguous()?.apply_op1_no_bwd(&Resize { height, width })?.to_dtype(x.dtype())
}

struct Resize {
    height: usize,
    width: usize,
}

/// Lower source index, step to the upper one (0 at the last), and the upper one's weight.
struct Tap {
    at: usize,
    step: usize,
    weight: f32,
}

/// As torch rounds: ratio, product and remainder in f32.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let ratio = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
    let tap = |out: usize| {
        let position = ratio * out as f32;
        let at = (position.floor() as usize).min(from - 1);
        let weight = (position - at as f32).clamp(0.0, 1.0);
        Tap { at, step: usize::from(at + 1 < from), weight }
    };
    (0..to).map(tap).collect()
}

impl CustomOp1 for Resize {
    fn name(&self) -> &'static str {
        "resize-aligned-corners"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, h, w) = layout.shape().dims4()?;
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("{}: expected contiguous f32", self.name());
        };
        let source = &values[start..end];
        let (rows, columns) = (taps(h, self.height), taps(w, self.width));
        let mut out = vec![0f32; batch * channels * self.height * self.width];
        out.par_chunks_exact_mut(self.height * self.width).zip(source.par_chunks_exact(h * w)).for_each(
            |(out, plane)| {
                for (row, out) in rows.iter().zip(out.chunks_exact_mut(self.width)) {
                    let upper = &plane[row.at * w..][..w];
                    let lower = &plane[(row.at + row.step) * w..][..w];
                    for (column, out) in columns.iter().zip(out) {
                        let across = |line: &[f32]| {
                            line[column.at] * (1.0 - column.weight)
                                + line[column.at + column.step] * column.weight
                        };
                        *out = across(upper) * (1.0 - row.weight) + across(lower) * row.weight;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), Shape::from((batch, channels, self.height, self.width))))
    }
}

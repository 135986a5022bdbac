//! Deformable convolution, version 2: each tap reads the picture at a place of its own, bilinearly, and is weighted.
//!
//! Equal to `torchvision.ops.deform_conv2d` with stride 1, one group and one offset group. A 7 x 7 kernel over 64 channels
//! at 256 x 256 would unfold to 822 MB, so output goes through in stripes. On a card all of it is `cuda::deform_conv`.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::cuda::deform_conv as kernel;
use crate::models::ops;

/// Largest column buffer in elements: 32 MiB of f32.
pub const COLUMNS: usize = 1 << 23;

/// The same on a card: 64 MiB in 16 bits. Four times as many are 7 % faster on an H100, a quarter of as many 70 % slower.
#[cfg(feature = "cuda")]
const COLUMNS_ON_CARD: usize = 1 << 25;

/// `x` (batch, inputs, height, width), `offset` (batch, 2 k², height, width), `mask` (batch, k², height, width), `weight`
/// (outputs, inputs, k, k), k odd, padded by k / 2: (batch, outputs, height, width) in `x`'s dtype.
///
/// Tap `j` (row by row over the kernel) reads at its regular place plus `offset[2 j]` rows and `offset[2 j + 1]` columns,
/// times `mask[j]`. Beyond the border lie zeros. Positions and sums are f32, rounded once.
///
/// # Errors
/// Shapes that do not fit together.
pub fn deform_conv2d(x: &Tensor, offset: &Tensor, mask: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let mask = kernel::Mask::Ready(mask);
        return kernel::deform_conv2d(COLUMNS_ON_CARD, x, offset, mask, weight);
    }
    deform_conv2d_within(COLUMNS, x, offset, mask, weight)
}

/// [`deform_conv2d`] with the mask `2 σ(modulation)`. torch rounds the sigmoid.
///
/// # Errors
/// As [`deform_conv2d`].
pub fn modulated_deform_conv2d(
    x: &Tensor,
    offset: &Tensor,
    modulation: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let mask = kernel::Mask::Raw(modulation);
        return kernel::deform_conv2d(COLUMNS_ON_CARD, x, offset, mask, weight);
    }
    deform_conv2d(x, offset, &(ops::sigmoid(modulation)? * 2.0)?, weight)
}

/// [`deform_conv2d`] on a CPU with at most `columns` elements unfolded at once (one row at least).
///
/// # Errors
/// As [`deform_conv2d`].
pub fn deform_conv2d_within(
    columns: usize,
    x: &Tensor,
    offset: &Tensor,
    mask: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    let (batch, inputs, height, width) = x.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight.dims4()?;
    let taps = kernel * kernel;
    let fits = offset.dims() == [batch, 2 * taps, height, width]
        && mask.dims() == [batch, taps, height, width]
        && (weight_inputs, kernel_width) == (inputs, kernel)
        && !kernel.is_multiple_of(2);
    if !fits {
        candle_core::bail!(
            "deformable convolution: x {:?}, offset {:?}, mask {:?} and weight {:?} do not fit together",
            x.shape(),
            offset.shape(),
            mask.shape(),
            weight.shape()
        );
    }
    let wide = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
    // Channels last: one place is read for all channels at once.
    let pixels = wide(&x.permute((0, 2, 3, 1))?)?;
    let matrix = wide(&weight.permute((2, 3, 1, 0))?)?.reshape((taps * inputs, outputs))?;
    let rows = (columns / (batch * width * taps * inputs).max(1)).max(1);
    let stripe = |first: usize| {
        let count = rows.min(height - first);
        let part = |x: &Tensor| wide(&x.narrow(2, first, count)?);
        pixels
            .apply_op3_no_bwd(&part(offset)?, &part(mask)?, &Gather { kernel, first })?
            .reshape((batch * count * width, taps * inputs))?
            .matmul(&matrix)?
            .reshape((batch, count, width, outputs))?
            .to_dtype(x.dtype())?
            .permute((0, 3, 1, 2))
    };
    let stripes = (0..height).step_by(rows).map(stripe).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&stripes, 2)?.contiguous()
}

/// Reads the taps of some output rows: pixels (batch, height, width, inputs), offset (batch, 2 k², rows, width), mask
/// (batch, k², rows, width), all f32 and contiguous, to (batch, rows, width, k² · inputs).
struct Gather {
    kernel: usize,
    /// The first output row.
    first: usize,
}

impl CustomOp3 for Gather {
    fn name(&self) -> &'static str {
        "deformable-gather"
    }

    fn cpu_fwd(
        &self,
        pixels: &CpuStorage,
        pixels_layout: &Layout,
        offset: &CpuStorage,
        offset_layout: &Layout,
        mask: &CpuStorage,
        mask_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, inputs) = pixels_layout.shape().dims4()?;
        let (_, taps, rows, _) = mask_layout.shape().dims4()?;
        let pixels = floats(pixels, pixels_layout)?;
        let offset = floats(offset, offset_layout)?;
        let mask = floats(mask, mask_layout)?;
        let shape = Shape::from((batch, rows, width, taps * inputs));
        let mut out = vec![0f32; shape.elem_count()];
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), shape));
        }
        let margin = (self.kernel / 2) as f32;
        out.par_chunks_exact_mut(width * taps * inputs).enumerate().for_each(|(index, line)| {
            let (item, row) = (index / rows, index % rows);
            let picture = Picture {
                values: &pixels[item * height * width * inputs..][..height * width * inputs],
                height,
                width,
                channels: inputs,
            };
            for (column, out) in line.chunks_exact_mut(taps * inputs).enumerate() {
                for (tap, out) in out.chunks_exact_mut(inputs).enumerate() {
                    let at =
                        |planes: usize, plane: usize| ((item * planes + plane) * rows + row) * width + column;
                    let y = (self.first + row + tap / self.kernel) as f32 - margin
                        + offset[at(2 * taps, 2 * tap)];
                    let x = (column + tap % self.kernel) as f32 - margin + offset[at(2 * taps, 2 * tap + 1)];
                    picture.add(y, x, mask[at(taps, tap)], out);
                }
            }
        });
        Ok((CpuStorage::F32(out), shape))
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("deformable-gather: expected contiguous f32"),
    }
}

struct Picture<'a> {
    values: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
}

impl Picture<'_> {
    /// Adds all channels at (y, x), times `scale`, to `out`.
    fn add(&self, y: f32, x: f32, scale: f32, out: &mut [f32]) {
        let inside = y > -1.0 && x > -1.0 && y < self.height as f32 && x < self.width as f32;
        // A place that is no number is no place.
        if !inside {
            return;
        }
        let (top, left) = (y.floor(), x.floor());
        let (down, right) = (y - top, x - left);
        let corners = [
            (0, 0, (1.0 - down) * (1.0 - right)),
            (0, 1, (1.0 - down) * right),
            (1, 0, down * (1.0 - right)),
            (1, 1, down * right),
        ];
        for (below, beside, weight) in corners {
            // -1 at least, by the check above.
            let (row, column) = (top as i64 + below, left as i64 + beside);
            if (0..self.height as i64).contains(&row) && (0..self.width as i64).contains(&column) {
                let start = (row as usize * self.width + column as usize) * self.channels;
                let weight = weight * scale;
                for (out, value) in out.iter_mut().zip(&self.values[start..start + self.channels]) {
                    *out += weight * value;
                }
            }
        }
    }
}

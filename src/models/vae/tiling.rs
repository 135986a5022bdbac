//! Tiles with blended seams, by diffusers' rule: tiles overlap by a quarter, and over that quarter each tile fades in over
//! its upper and its left neighbour, which were blended before.

use candle_core::{Result, Tensor};

/// Parts of a tile: `1 / OVERLAP` is shared with the next.
const OVERLAP: usize = 4;

/// Runs `net` on tiles of `x` with edge `from` and joins results of edge `to`. An `x` of one tile is run whole.
pub(super) fn tiled(
    x: &Tensor,
    from: usize,
    to: usize,
    net: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if height <= from && width <= from {
        return net(x);
    }
    // diffusers truncates 0.75 and 0.25 of the edge.
    let stride = from * (OVERLAP - 1) / OVERLAP;
    let blend = to / OVERLAP;
    if stride == 0 {
        candle_core::bail!("VAE tiles of edge {from} are too small to overlap; raise sample_size");
    }
    let mut above: Vec<Tensor> = Vec::new();
    let mut rows = Vec::new();
    for top in (0..height).step_by(stride) {
        let mut row: Vec<Tensor> = Vec::new();
        for (column, left) in (0..width).step_by(stride).enumerate() {
            let tile = x
                .narrow(2, top, from.min(height - top))?
                .narrow(3, left, from.min(width - left))?
                .contiguous()?;
            let mut tile = net(&tile)?;
            if let Some(upper) = above.get(column) {
                tile = fade(upper, &tile, 2, blend)?;
            }
            if let Some(neighbour) = row.last() {
                tile = fade(neighbour, &tile, 3, blend)?;
            }
            row.push(tile);
        }
        let kept = row.iter().map(|tile| crop(tile, to - blend)).collect::<Result<Vec<_>>>()?;
        rows.push(Tensor::cat(&kept, 3)?);
        above = row;
    }
    Tensor::cat(&rows, 2)
}

/// `after` with its first `extent` lines along `dim` faded in over the last of `before`.
fn fade(before: &Tensor, after: &Tensor, dim: usize, extent: usize) -> Result<Tensor> {
    let (length, lines) = (before.dim(dim)?, after.dim(dim)?);
    let extent = extent.min(length).min(lines);
    if extent == 0 {
        return Ok(after.clone());
    }
    let mut shape = [1; 4];
    shape[dim] = extent;
    let ramp = |weight: &dyn Fn(f64) -> f64| {
        let weights: Vec<f32> = (0..extent).map(|i| weight(i as f64 / extent as f64) as f32).collect();
        Tensor::from_vec(weights, &shape, after.device())?.to_dtype(after.dtype())
    };
    let old = before.narrow(dim, length - extent, extent)?.broadcast_mul(&ramp(&|part| 1.0 - part)?)?;
    let new = after.narrow(dim, 0, extent)?.broadcast_mul(&ramp(&|part| part)?)?;
    let seam = (old + new)?;
    if extent == lines {
        return Ok(seam);
    }
    Tensor::cat(&[seam, after.narrow(dim, extent, lines - extent)?], dim)
}

fn crop(tile: &Tensor, limit: usize) -> Result<Tensor> {
    let (_, _, height, width) = tile.dims4()?;
    tile.narrow(2, 0, limit.min(height))?.narrow(3, 0, limit.min(width))?.contiguous()
}

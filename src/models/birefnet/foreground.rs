//! Removes from soft edges what shone through of the background: blur-fusion foreground estimation (Forte, "Approximate
//! Fast Foreground Colour Estimation", 2021), with the radii of BiRefNet's repository. No net.

use candle_core::Result;
use image::{GrayImage, RgbImage};
use rayon::prelude::*;

/// Edges of the two passes' boxes in pixels.
const BOXES: [usize; 2] = [90, 6];
/// Keeps quotients finite where a box holds nothing but fore- or background.
const EPS: f32 = 1e-5;
/// Rows that one core takes at a time. Fixed, because sums down a column begin anew with each band: results must not depend
/// on how many cores there are.
const BAND: usize = 128;
/// Rows whose sums slide side by side: one after the other each addition would wait for the one before.
const LANES: usize = 4;

/// The colours that `picture` would have without a background, given how opaque each pixel is. Same size.
///
/// # Errors
/// Sizes that differ.
pub fn refine_foreground(picture: &RgbImage, alpha: &GrayImage) -> Result<RgbImage> {
    if picture.dimensions() != alpha.dimensions() {
        candle_core::bail!(
            "picture {:?} and alpha {:?}: sizes differ",
            picture.dimensions(),
            alpha.dimensions()
        );
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut out = picture.clone();
    if width == 0 || height == 0 {
        return Ok(out);
    }
    let alpha: Vec<f32> = alpha.as_raw().par_iter().map(|&value| f32::from(value) / 255.0).collect();
    let [wide, narrow] = BOXES;
    let (wide_alpha, narrow_alpha) =
        rayon::join(|| mean_blur(&alpha, width, wide), || mean_blur(&alpha, width, narrow));
    // Channels do not see each other.
    let channels: [Vec<u8>; 3] = in_parallel(|channel| {
        let values = picture.as_raw().as_slice();
        let image: Vec<f32> =
            values.par_chunks_exact(3).map(|pixel| f32::from(pixel[channel]) / 255.0).collect();
        let (foreground, background) = fuse(&image, [&image, &image], &alpha, &wide_alpha, width, wide);
        let (foreground, _) = fuse(&image, [&foreground, &background], &alpha, &narrow_alpha, width, narrow);
        foreground.into_par_iter().map(|value| (value * 255.0) as u8).collect()
    });
    let [red, green, blue] = &channels;
    for ((pixel, red), (green, blue)) in out.pixels_mut().zip(red).zip(green.iter().zip(blue)) {
        pixel.0 = [*red, *green, *blue];
    }
    Ok(out)
}

fn in_parallel<T: Send>(work: impl Fn(usize) -> T + Sync) -> [T; 3] {
    let (first, (second, third)) = rayon::join(|| work(0), || rayon::join(|| work(1), || work(2)));
    [first, second, third]
}

/// One pass over one channel: (foreground, blurred background).
fn fuse(
    image: &[f32],
    [foreground, background]: [&[f32]; 2],
    alpha: &[f32],
    blurred_alpha: &[f32],
    width: usize,
    edge: usize,
) -> (Vec<f32>, Vec<f32>) {
    let band = width * BAND;
    let weighted = |values: &[f32], weight: fn(f32) -> f32| {
        let mut product = vec![0f32; values.len()];
        let bands = product.par_chunks_mut(band).zip(values.par_chunks(band).zip(alpha.par_chunks(band)));
        bands.for_each(|(product, (values, alpha))| {
            for ((product, value), alpha) in product.iter_mut().zip(values).zip(alpha) {
                *product = value * weight(*alpha);
            }
        });
        mean_blur(&product, width, edge)
    };
    let (mut foreground, mut background) =
        rayon::join(|| weighted(foreground, |alpha| alpha), || weighted(background, |alpha| 1.0 - alpha));
    let blurred = foreground.par_chunks_mut(band).zip(background.par_chunks_mut(band));
    let given = image.par_chunks(band).zip(alpha.par_chunks(band).zip(blurred_alpha.par_chunks(band)));
    blurred.zip(given).for_each(|((foreground, background), (image, (alpha, blurred_alpha)))| {
        let pixels = foreground.iter_mut().zip(background).zip(image).zip(alpha.iter().zip(blurred_alpha));
        for (((fore, back), image), (alpha, blurred_alpha)) in pixels {
            *fore /= blurred_alpha + EPS;
            *back /= (1.0 - blurred_alpha) + EPS;
            *fore = (*fore + alpha * (image - alpha * *fore - (1.0 - alpha) * *back)).clamp(0.0, 1.0);
        }
    });
    (foreground, background)
}

/// Mean over a square of edge `edge`; borders repeat. An even edge reaches one pixel further down and right.
fn mean_blur(values: &[f32], width: usize, edge: usize) -> Vec<f32> {
    let height = values.len() / width;
    let first = -(((edge - 1) / 2) as i64);
    let scale = 1.0 / edge as f64;
    // Sliding sums in f64 do not drift: a row's steps stay below half a step of f32.
    let mut across = vec![0f32; values.len()];
    let together = across.par_chunks_mut(LANES * width).zip(values.par_chunks(LANES * width));
    together.with_min_len(BAND / (4 * LANES)).for_each(|(out, rows)| {
        let mut padded = vec![[0f32; LANES]; width + edge];
        for (at, lanes) in (first..).zip(&mut padded) {
            let at = at.clamp(0, width as i64 - 1) as usize;
            for (lane, row) in lanes.iter_mut().zip(rows.chunks_exact(width)) {
                *lane = row[at];
            }
        }
        let mut sums = [0f64; LANES];
        for lanes in &padded[..edge] {
            for (sum, value) in sums.iter_mut().zip(lanes) {
                *sum += f64::from(*value);
            }
        }
        for x in 0..width {
            for (out, sum) in out.chunks_exact_mut(width).zip(sums) {
                out[x] = (sum * scale) as f32;
            }
            for ((sum, entering), leaving) in sums.iter_mut().zip(padded[x + edge]).zip(padded[x]) {
                *sum += f64::from(entering) - f64::from(leaving);
            }
        }
    });
    let row = |y: i64| {
        let y = y.clamp(0, height as i64 - 1) as usize;
        &across[y * width..(y + 1) * width]
    };
    let mut out = vec![0f32; values.len()];
    out.par_chunks_mut(width * BAND).enumerate().for_each(|(band, out)| {
        let top = (band * BAND) as i64 + first;
        let mut sums = vec![0f64; width];
        for y in top..top + edge as i64 {
            for (sum, value) in sums.iter_mut().zip(row(y)) {
                *sum += f64::from(*value);
            }
        }
        for (y, out) in (top..).zip(out.chunks_exact_mut(width)) {
            let (entering, leaving) = (row(y + edge as i64), row(y));
            for (((out, sum), entering), leaving) in out.iter_mut().zip(&mut sums).zip(entering).zip(leaving)
            {
                *out = (*sum * scale) as f32;
                *sum += f64::from(*entering) - f64::from(*leaving);
            }
        }
    });
    out
}

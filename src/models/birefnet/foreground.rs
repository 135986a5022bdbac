//! Removes from soft edges what shone through of the background: blur-fusion foreground estimation (Forte, "Approximate
//! Fast Foreground Colour Estimation", 2021), with the radii of BiRefNet's repository. No net.

use candle_core::Result;
use image::{GrayImage, RgbImage};

/// Edges of the two passes' boxes in pixels.
const BOXES: [usize; 2] = [90, 6];
/// Keeps quotients finite where a box holds nothing but fore- or background.
const EPS: f32 = 1e-5;

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
    let alpha: Vec<f32> = alpha.iter().map(|&value| f32::from(value) / 255.0).collect();
    let [wide, narrow] = BOXES;
    let (wide_alpha, narrow_alpha) =
        rayon::join(|| mean_blur(&alpha, width, wide), || mean_blur(&alpha, width, narrow));
    // Channels do not see each other.
    let channels: [Vec<u8>; 3] = in_parallel(|channel| {
        let image: Vec<f32> = picture.pixels().map(|pixel| f32::from(pixel.0[channel]) / 255.0).collect();
        let (foreground, background) = fuse(&image, [&image, &image], &alpha, &wide_alpha, width, wide);
        let (foreground, _) = fuse(&image, [&foreground, &background], &alpha, &narrow_alpha, width, narrow);
        foreground.into_iter().map(|value| (value * 255.0) as u8).collect()
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
    let weighted = |values: &[f32], weight: fn(f32) -> f32| {
        let product: Vec<f32> =
            values.iter().zip(alpha).map(|(value, &alpha)| value * weight(alpha)).collect();
        mean_blur(&product, width, edge)
    };
    let (mut foreground, mut background) =
        rayon::join(|| weighted(foreground, |alpha| alpha), || weighted(background, |alpha| 1.0 - alpha));
    let pixels = foreground.iter_mut().zip(&mut background).zip(image).zip(alpha.iter().zip(blurred_alpha));
    for (((fore, back), image), (alpha, blurred_alpha)) in pixels {
        *fore /= blurred_alpha + EPS;
        *back /= (1.0 - blurred_alpha) + EPS;
        *fore = (*fore + alpha * (image - alpha * *fore - (1.0 - alpha) * *back)).clamp(0.0, 1.0);
    }
    (foreground, background)
}

/// Mean over a square of edge `edge`; borders repeat. An even edge reaches one pixel further down and right.
fn mean_blur(values: &[f32], width: usize, edge: usize) -> Vec<f32> {
    let height = values.len() / width;
    let before = (edge - 1) / 2;
    let scale = 1.0 / edge as f64;
    // Sliding sums in f64 do not drift: millions of steps stay below half a step of f32.
    let mut rows = Vec::with_capacity(values.len());
    for row in values.chunks_exact(width) {
        let at = |x: i64| f64::from(row[x.clamp(0, width as i64 - 1) as usize]);
        let first = -(before as i64);
        let mut sum: f64 = (first..first + edge as i64).map(at).sum();
        for x in 0..width as i64 {
            rows.push((sum * scale) as f32);
            sum += at(x + first + edge as i64) - at(x + first);
        }
    }
    let row = |y: i64| {
        let y = y.clamp(0, height as i64 - 1) as usize;
        &rows[y * width..(y + 1) * width]
    };
    let first = -(before as i64);
    let mut sums = vec![0f64; width];
    for y in first..first + edge as i64 {
        for (sum, value) in sums.iter_mut().zip(row(y)) {
            *sum += f64::from(*value);
        }
    }
    let mut out = Vec::with_capacity(values.len());
    for y in 0..height as i64 {
        out.extend(sums.iter().map(|sum| (sum * scale) as f32));
        let (entering, leaving) = (row(y + first + edge as i64), row(y + first));
        for ((sum, entering), leaving) in sums.iter_mut().zip(entering).zip(leaving) {
            *sum += f64::from(*entering) - f64::from(*leaving);
        }
    }
    out
}

//! Resizing that equals Pillow's, byte for byte.
//!
//! Owns the three antialiased filters of Pillow <= 12.3 (`Image.resize` with `BILINEAR`, `BICUBIC`, `LANCZOS`): weights in
//! f64, rounded to 22 fractional bits, horizontal pass first, 8 bit between the passes, a pass skipped where its axis does
//! not change. The reference pipelines resize with Pillow, so their nets were fed exactly these bytes. RGBA is
//! premultiplied around the resize, as Pillow does for its `RGBA` mode. Called by input decoding and both engines.

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

/// Fractional bits of a weight: 8 bits of pixel, 2 of head room and the sign make 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    libm::sin(x) / x
}

/// Weights of one axis: output `i` is the sum of `weights[i * width ..][.. taps]` over inputs from `first`.
struct Axis {
    bounds: Vec<(usize, usize)>,
    weights: Vec<i32>,
    width: usize,
}

impl Axis {
    fn new(from: u32, to: u32, filter: Filter) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        let width = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(to as usize);
        let mut weights = Vec::with_capacity(to as usize * width);
        let mut exact = Vec::with_capacity(width);
        for out in 0..to {
            let center = (f64::from(out) + 0.5) * scale;
            // `as` truncates towards zero like C; Pillow clamps after the cast.
            let first = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(from));
            exact.clear();
            exact.extend((first..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)));
            let sum: f64 = exact.iter().sum();
            bounds.push((first as usize, exact.len()));
            for value in &exact {
                let value = if sum == 0.0 { *value } else { value / sum } * f64::from(1 << PRECISION_BITS);
                weights.push((value + 0.5_f64.copysign(value)) as i32);
            }
            weights.resize(bounds.len() * width, 0);
        }
        Self { bounds, weights, width }
    }

    fn outputs(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.width))
            .map(|(&(first, taps), weights)| (first, &weights[..taps]))
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Along rows. `C` interleaved channels.
fn horizontal<const C: usize>(source: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    let out_row = axis.bounds.len() * C;
    let mut out = vec![0; source.len() / (width * C) * out_row];
    for (row, out_row) in source.chunks_exact(width * C).zip(out.chunks_exact_mut(out_row)) {
        for ((first, weights), pixel) in axis.outputs().zip(out_row.as_chunks_mut::<C>().0) {
            let mut sum = [HALF; C];
            for (tap, &weight) in row[first * C..].as_chunks::<C>().0.iter().zip(weights) {
                for (sum, &value) in sum.iter_mut().zip(tap) {
                    *sum += i32::from(value) * weight;
                }
            }
            *pixel = sum.map(to_byte);
        }
    }
    out
}

/// Across rows; channels do not matter. Rows are summed whole, which the compiler turns into vector code.
fn vertical(source: &[u8], row_bytes: usize, axis: &Axis) -> Vec<u8> {
    let mut out = vec![0; axis.bounds.len() * row_bytes];
    let mut sums = vec![0_i32; row_bytes];
    for ((first, weights), out_row) in axis.outputs().zip(out.chunks_exact_mut(row_bytes)) {
        sums.fill(HALF);
        for (row, &weight) in source[first * row_bytes..].chunks_exact(row_bytes).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, &sum) in out_row.iter_mut().zip(&sums) {
            *byte = to_byte(sum);
        }
    }
    out
}

fn resize_plane<const C: usize>(source: &[u8], from: (u32, u32), to: (u32, u32), filter: Filter) -> Vec<u8> {
    let mut out = None;
    if from.0 != to.0 {
        out = Some(horizontal::<C>(source, from.0 as usize, &Axis::new(from.0, to.0, filter)));
    }
    if from.1 != to.1 {
        let rows = out.as_deref().unwrap_or(source);
        out = Some(vertical(rows, to.0 as usize * C, &Axis::new(from.1, to.1, filter)));
    }
    out.unwrap_or_else(|| source.to_vec())
}

/// A zero side has no pixels to weigh; such a request gives an image without pixels, as no caller can want more.
fn is_empty(from: (u32, u32), to: (u32, u32)) -> bool {
    from.0 == 0 || from.1 == 0 || to.0 == 0 || to.1 == 0
}

/// Resizes a single-channel image, Pillow mode `L`.
pub fn resize_gray(image: &GrayImage, width: u32, height: u32, filter: Filter) -> GrayImage {
    if is_empty(image.dimensions(), (width, height)) {
        return GrayImage::new(width, height);
    }
    let bytes = resize_plane::<1>(image, image.dimensions(), (width, height), filter);
    GrayImage::from_raw(width, height, bytes).unwrap_or_default()
}

/// Resizes three channels, Pillow mode `RGB`.
pub fn resize_rgb(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    if is_empty(image.dimensions(), (width, height)) {
        return RgbImage::new(width, height);
    }
    let bytes = resize_plane::<3>(image, image.dimensions(), (width, height), filter);
    RgbImage::from_raw(width, height, bytes).unwrap_or_default()
}

/// Resizes straight-alpha RGBA, Pillow mode `RGBA`: premultiplied, resized, divided again. An unchanged size is a copy.
pub fn resize_rgba(image: &RgbaImage, width: u32, height: u32, filter: Filter) -> RgbaImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    if is_empty(image.dimensions(), (width, height)) {
        return RgbaImage::new(width, height);
    }
    let mut premultiplied = image.as_raw().clone();
    for pixel in premultiplied.as_chunks_mut::<4>().0 {
        let alpha = u32::from(pixel[3]);
        for value in &mut pixel[..3] {
            // Exact rounding of value * alpha / 255 in shifts.
            let product = u32::from(*value) * alpha + 128;
            *value = (((product >> 8) + product) >> 8) as u8;
        }
    }
    let mut bytes = resize_plane::<4>(&premultiplied, image.dimensions(), (width, height), filter);
    for pixel in bytes.as_chunks_mut::<4>().0 {
        let alpha = u32::from(pixel[3]);
        if alpha != 0 && alpha != 255 {
            for value in &mut pixel[..3] {
                *value = (u32::from(*value) * 255 / alpha).min(255) as u8;
            }
        }
    }
    RgbaImage::from_raw(width, height, bytes).unwrap_or_default()
}

/// Four unrelated channels in one buffer (planes of a net's output, say), without premultiplication.
pub fn resize_channels4(image: &RgbaImage, width: u32, height: u32, filter: Filter) -> RgbaImage {
    if is_empty(image.dimensions(), (width, height)) {
        return RgbaImage::new(width, height);
    }
    let bytes = resize_plane::<4>(image, image.dimensions(), (width, height), filter);
    RgbaImage::from_raw(width, height, bytes).unwrap_or_default()
}

/// Resizes by kind: grey, RGBA if there is alpha, else RGB; deeper images are brought to 8 bit first.
pub fn resize(image: &DynamicImage, width: u32, height: u32, filter: Filter) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(gray) => resize_gray(gray, width, height, filter).into(),
        DynamicImage::ImageRgb8(rgb) => resize_rgb(rgb, width, height, filter).into(),
        DynamicImage::ImageRgba8(rgba) => resize_rgba(rgba, width, height, filter).into(),
        other if other.color().has_alpha() => resize_rgba(&other.to_rgba8(), width, height, filter).into(),
        other => resize_rgb(&other.to_rgb8(), width, height, filter).into(),
    }
}

//! Inpainting around the mask only: cut the mask's surroundings out, paint them at full size, put them back.
//!
//! Equal to diffusers' `padding_mask_crop` (`get_crop_region`, resize mode "fill", `apply_overlay`) for RGB and grey
//! pictures, with Pillow's integer arithmetic. Pure pixels; no tensors.

use image::{DynamicImage, GrayImage, Rgb, RgbImage};

use crate::imaging::resample::{self, Filter};
use crate::models::image_processor::to_grey;

/// A region of a picture, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl Crop {
    /// The box of all non-black pixels of `mask`, `padding` larger on each side, grown along one side to the ratio
    /// `width : height` as far as the picture goes. A black mask yields the whole picture.
    pub fn around(mask: &DynamicImage, width: u32, height: u32, padding: u32) -> Self {
        let (w, h) = (i64::from(mask.width()), i64::from(mask.height()));
        let (mut x1, mut y1, mut x2, mut y2) = (w, h, 0, 0);
        for (x, y, pixel) in to_grey(mask).enumerate_pixels() {
            if pixel.0[0] > 0 {
                (x1, x2) = (x1.min(i64::from(x)), x2.max(i64::from(x) + 1));
                (y1, y2) = (y1.min(i64::from(y)), y2.max(i64::from(y) + 1));
            }
        }
        if x1 >= x2 {
            (x1, y1, x2, y2) = (0, 0, w, h);
        }
        let padding = i64::from(padding);
        (x1, y1, x2, y2) =
            ((x1 - padding).max(0), (y1 - padding).max(0), (x2 + padding).min(w), (y2 + padding).min(h));
        let ratio = f64::from(width) / f64::from(height.max(1));
        if (x2 - x1) as f64 / (y2 - y1) as f64 > ratio {
            let by = ((x2 - x1) as f64 / ratio - (y2 - y1) as f64) as i64;
            grow(&mut y1, &mut y2, by, h);
        } else {
            let by = ((y2 - y1) as f64 * ratio - (x2 - x1) as f64) as i64;
            grow(&mut x1, &mut x2, by, w);
        }
        Self { x: x1 as u32, y: y1 as u32, width: (x2 - x1).max(1) as u32, height: (y2 - y1).max(1) as u32 }
    }

    /// The region of `image` within `width` x `height` pixels rounded down to multiples of 16: scaled to fit, centred,
    /// bars filled with the stretched border.
    pub fn cut(&self, image: &DynamicImage, width: u32, height: u32) -> DynamicImage {
        let (width, height) = ((width / 16 * 16).max(16), (height / 16 * 16).max(16));
        let region = image.crop_imm(self.x, self.y, self.width, self.height);
        let ratio = f64::from(width) / f64::from(height);
        let own = f64::from(self.width) / f64::from(self.height);
        let inner_width = if ratio < own { width } else { self.width * height / self.height };
        let inner_height = if ratio >= own { height } else { self.height * width / self.width };
        let inner =
            resample::resize(&region, inner_width.max(1), inner_height.max(1), Filter::Lanczos).to_rgb8();
        let (left, top) = (width / 2 - inner.width() / 2, height / 2 - inner.height() / 2);
        let mut canvas = RgbImage::new(width, height);
        image::imageops::replace(&mut canvas, &inner, i64::from(left), i64::from(top));
        if ratio < own && top > 0 {
            fill(&mut canvas, 0..width, 0..top, |x, _| (at(&inner, x, 0), at(&inner, x, 1)));
            let last = inner.height() - 1;
            let below = top + inner.height()..(2 * top + inner.height()).min(height);
            fill(&mut canvas, 0..width, below, |x, _| {
                (at(&inner, x, last), at(&inner, x, last.saturating_sub(1)))
            });
        } else if ratio > own && left > 0 {
            fill(&mut canvas, 0..left, 0..height, |_, y| (at(&inner, 0, y), at(&inner, 1, y)));
            let last = inner.width() - 1;
            let beside = left + inner.width()..(2 * left + inner.width()).min(width);
            fill(&mut canvas, beside, 0..height, |_, y| {
                (at(&inner, last, y), at(&inner, last.saturating_sub(1), y))
            });
        }
        DynamicImage::ImageRgb8(canvas)
    }

    /// `original` with `painted` in this region wherever `mask` (of the original's size) is bright.
    pub fn put_back(&self, painted: &DynamicImage, original: &DynamicImage, mask: &DynamicImage) -> RgbImage {
        let ratio = f64::from(self.width) / f64::from(self.height);
        let own = f64::from(painted.width()) / f64::from(painted.height());
        let width = if ratio > own { self.width } else { painted.width() * self.height / painted.height() };
        let height = if ratio <= own { self.height } else { painted.height() * self.width / painted.width() };
        let scaled = resample::resize(painted, width.max(1), height.max(1), Filter::Lanczos).to_rgb8();
        // Scaled to cover the region; what hangs over is cut, as are the centring's odd pixels.
        let mut region = RgbImage::new(self.width, self.height);
        let corner = (
            i64::from(self.width / 2) - i64::from(scaled.width() / 2),
            i64::from(self.height / 2) - i64::from(scaled.height() / 2),
        );
        image::imageops::replace(&mut region, &scaled, corner.0, corner.1);
        let mut out = RgbImage::new(original.width(), original.height());
        image::imageops::replace(&mut out, &region, i64::from(self.x), i64::from(self.y));
        overlay(&mut out, &original.to_rgb8(), &to_grey(mask));
        out
    }
}

/// Widens `low..high` by `by`, half on each side (the odd one above), and shifts it back inside `0..limit`.
fn grow(low: &mut i64, high: &mut i64, by: i64, limit: i64) {
    *low -= by / 2;
    *high += by - by / 2;
    if *high >= limit {
        *low -= *high - limit;
        *high = limit;
    }
    if *low < 0 {
        *high -= *low;
        *low = 0;
    }
    *high = (*high).min(limit);
}

fn at(image: &RgbImage, x: u32, y: u32) -> Rgb<u8> {
    *image.get_pixel(x.min(image.width() - 1), y.min(image.height() - 1))
}

/// Pillow's bicubic filter over a box of no size at the border weighs the border 9/8 and its neighbour -1/8.
fn fill(
    canvas: &mut RgbImage,
    columns: std::ops::Range<u32>,
    rows: std::ops::Range<u32>,
    source: impl Fn(u32, u32) -> (Rgb<u8>, Rgb<u8>),
) {
    for y in rows {
        for x in columns.clone() {
            let (border, neighbour) = source(x, y);
            let channel = |b: u8, n: u8| ((9 * i32::from(b) - i32::from(n) + 4) >> 3).clamp(0, 255) as u8;
            let [r, g, b] = std::array::from_fn(|i| channel(border.0[i], neighbour.0[i]));
            canvas.put_pixel(x, y, Rgb([r, g, b]));
        }
    }
}

/// Lays `above` over `below` where `mask` is dark, with the roundings of Pillow's masked paste onto a premultiplied
/// canvas, its way back to straight alpha, and its `alpha_composite`.
fn overlay(below: &mut RgbImage, above: &RgbImage, mask: &GrayImage) {
    let divided = |value: u32| ((value >> 8) + value) >> 8;
    for ((base, top), bright) in below.pixels_mut().zip(above.pixels()).zip(mask.pixels()) {
        let alpha = u32::from(255 - bright.0[0]);
        if alpha == 0 {
            continue;
        }
        for (base, top) in base.0.iter_mut().zip(top.0) {
            let premultiplied = divided(u32::from(top) * alpha + 128);
            let straight = (255 * premultiplied / alpha).min(255);
            let sum = straight * alpha * 128 + u32::from(*base) * (255 - alpha) * 128;
            *base = (divided(sum + (0x80 << 7)) >> 7) as u8;
        }
    }
}

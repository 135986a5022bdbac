//! Masks: what is text, what is its surrounding, what stands in front.
//!
//! 255 is "repaint here" for a net and "opaque" for a compositor. Called by both engines' third step.

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};

use super::blur::{Plane, blur, dilate};
use super::resample::{Filter, resize_gray, resize_rgb};

/// Alpha below this is haze, not content: rounding and soft shadows must not move a text.
pub const VISIBLE_ALPHA: u8 = 8;

/// Soft margin of a text that is merged, at 1024 px.
pub const SOFT_MARGIN: f32 = 28.0;

/// Foreground below this mean (of 255) is nothing that a text could stand behind.
const LEAST_FOREGROUND: f64 = 2.0;
/// Share of the text that the foreground may hide without a word: a phrase that cannot be read advertises nothing.
const MOST_HIDDEN: f64 = 0.3;

/// A box in pixels, exclusive at right and bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Left.
    pub x0: u32,
    /// Top.
    pub y0: u32,
    /// Right, exclusive.
    pub x1: u32,
    /// Bottom, exclusive.
    pub y1: u32,
}

impl Bounds {
    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.x1 - self.x0
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.y1 - self.y0
    }
}

/// The alpha channel.
pub fn alpha(image: &RgbaImage) -> GrayImage {
    let values = image.pixels().map(|pixel| pixel.0[3]).collect();
    GrayImage::from_raw(image.width(), image.height(), values).unwrap_or_default()
}

/// Whether `image` brings its own transparency: its subject is cut out already.
pub fn is_cut_out(image: &DynamicImage) -> bool {
    image.as_rgba8().is_some_and(|image| image.pixels().any(|pixel| pixel.0[3] < 250))
}

/// `foreground` if there is enough of it to stand before `text`, and a remark where there is none or where it hides the text.
/// Both have one size.
pub fn standing_before(foreground: GrayImage, text: &RgbaImage) -> (Option<GrayImage>, Option<String>) {
    let pixels = f64::from(foreground.width()) * f64::from(foreground.height());
    let mean = foreground.iter().map(|&value| f64::from(value)).sum::<f64>() / pixels.max(1.0);
    if mean < LEAST_FOREGROUND {
        let warning =
            "composition_mode behind: nothing in the background stands out enough to be in front of the text";
        return (None, Some(warning.to_owned()));
    }
    let hidden = hidden_share(&foreground, text);
    let warning = (hidden > MOST_HIDDEN).then(|| {
        format!(
            "composition_mode behind: the foreground hides {:.0} % of the text; another text_position may leave it readable",
            hidden * 100.0
        )
    });
    (Some(foreground), warning)
}

/// Share of `text`'s opacity that lies under `foreground`, 0 to 1.
fn hidden_share(foreground: &GrayImage, text: &RgbaImage) -> f64 {
    let (mut hidden, mut all) = (0.0, 0.0);
    for (front, pixel) in foreground.iter().zip(text.pixels()) {
        let opacity = f64::from(pixel.0[3]);
        hidden += opacity * f64::from(*front) / 255.0;
        all += opacity;
    }
    if all > 0.0 { hidden / all } else { 0.0 }
}

/// The smallest box around everything of at least `threshold`; `None` if there is nothing.
pub fn bounds(mask: &GrayImage, threshold: u8) -> Option<Bounds> {
    let width = mask.width() as usize;
    if width == 0 {
        return None;
    }
    let mut found: Option<Bounds> = None;
    for (y, row) in mask.as_raw().chunks_exact(width).enumerate() {
        let Some(first) = row.iter().position(|&v| v >= threshold) else { continue };
        let last = row.iter().rposition(|&v| v >= threshold).unwrap_or(first);
        let (x0, x1, y) = (first as u32, last as u32 + 1, y as u32);
        found = Some(match found {
            None => Bounds { x0, y0: y, x1, y1: y + 1 },
            Some(b) => Bounds { x0: b.x0.min(x0), y0: b.y0, x1: b.x1.max(x1), y1: y + 1 },
        });
    }
    found
}

/// Where the merge may repaint: the text, grown by `margin` pixels and softened over about as many, less what stands in
/// front of it.
pub fn inpaint_mask(text_alpha: &GrayImage, margin: u32, foreground: Option<&GrayImage>) -> GrayImage {
    let mut mask = blur(&dilate(text_alpha, margin), margin as f32 / 2.0);
    // The text itself is always wholly inside.
    for (value, &text) in mask.iter_mut().zip(text_alpha.iter()) {
        *value = (*value).max(text);
    }
    if let Some(foreground) = foreground {
        subtract(&mut mask, foreground);
    }
    mask
}

/// Multiplies `mask` by the complement of `foreground`.
pub fn subtract(mask: &mut GrayImage, foreground: &GrayImage) {
    for (value, &front) in mask.iter_mut().zip(foreground.iter()) {
        *value = ((u32::from(*value) * (255 - u32::from(front)) + 127) / 255) as u8;
    }
}

/// Longer side of the reduced picture on which salience is judged.
const SALIENCE_SIDE: u32 = 128;

/// What stands out of a picture without a net: pixels unlike the left and right margin of their own rows, weighted
/// towards the middle, cut by Otsu's threshold. Scenes are layered horizontally (sky, sea, table), so a row's margins tell
/// its background. Nothing stands out of an even picture: the mask is then black.
pub fn salient_foreground(image: &RgbImage) -> GrayImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    let small_width = (width * SALIENCE_SIDE / longer).clamp(8, SALIENCE_SIDE);
    let small_height = (height * SALIENCE_SIDE / longer).clamp(8, SALIENCE_SIDE);
    let small = resize_rgb(image, small_width, small_height, Filter::Bilinear);
    let (columns, margin) = (small_width as usize, (small_width as usize / 8).max(1));
    let mut distance = Plane::filled(columns, small_height as usize, 0.0);
    for (row, out) in small.as_raw().chunks_exact(columns * 3).zip(distance.values.chunks_exact_mut(columns))
    {
        let mean = |from: usize| -> [f32; 3] {
            let mut sum = [0.0; 3];
            for pixel in row[from * 3..(from + margin) * 3].as_chunks::<3>().0 {
                for (sum, &value) in sum.iter_mut().zip(pixel) {
                    *sum += f32::from(value) / margin as f32;
                }
            }
            sum
        };
        let (left, right) = (mean(0), mean(columns - margin));
        for (x, (pixel, out)) in row.as_chunks::<3>().0.iter().zip(out).enumerate() {
            let across = x as f32 / (columns - 1) as f32;
            let squares = (0..3).map(|c| {
                let expected = left[c] + (right[c] - left[c]) * across;
                let difference = f32::from(pixel[c]) - expected;
                difference * difference
            });
            // 1 in the middle, 0 at both margins.
            let central = 4.0 * across * (1.0 - across);
            *out = (squares.sum::<f32>().sqrt() / 255.0) * (0.35 + 0.65 * central);
        }
    }
    let distance = distance.blurred(1.0);
    let threshold = otsu(&distance.values);
    if threshold < MIN_SALIENCE {
        return GrayImage::new(width, height);
    }
    let soft = Plane {
        values: distance
            .values
            .iter()
            .map(|d| ((d - threshold * 0.8) / (threshold * 0.4)).clamp(0.0, 1.0))
            .collect(),
        ..distance
    };
    resize_gray(&soft.to_gray(), width, height, Filter::Bicubic)
}

/// Colour distance below which a difference is texture, not an object.
const MIN_SALIENCE: f32 = 0.09;

/// Otsu's threshold over 64 classes of 0..=1.
fn otsu(values: &[f32]) -> f32 {
    let mut histogram = [0_u32; 64];
    for value in values {
        histogram[((value * 64.0) as usize).min(63)] += 1;
    }
    let total = values.len() as f64;
    let sum: f64 = histogram.iter().enumerate().map(|(i, &n)| i as f64 * f64::from(n)).sum();
    let (mut below, mut below_sum, mut best, mut threshold) = (0.0, 0.0, 0.0, 0);
    for (class, &count) in histogram.iter().enumerate() {
        below += f64::from(count);
        below_sum += class as f64 * f64::from(count);
        let above = total - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let gap = below_sum / below - (sum - below_sum) / above;
        let between = below * above * gap * gap;
        if between > best {
            (best, threshold) = (between, class + 1);
        }
    }
    threshold as f32 / 64.0
}

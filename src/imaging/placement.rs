//! Where things go: the text's visible content, the product's box.
//!
//! Called by both engines. Positions are in output pixels; margins scale with the canvas's smaller side.

use image::{GrayImage, RgbImage, RgbaImage};

use super::masks::{self, Bounds, VISIBLE_ALPHA};
use crate::input::plan::{ProductPosition, TextPosition};

/// A third of the picture, from top to bottom: where a text ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Band {
    /// The upper third.
    Top,
    /// The middle.
    Center,
    /// The lower third.
    Bottom,
}

impl Band {
    /// The bands that a text may end up in.
    pub fn candidates(position: TextPosition) -> &'static [Self] {
        match position {
            TextPosition::Top => &[Self::Top],
            TextPosition::Center => &[Self::Center],
            TextPosition::Bottom => &[Self::Bottom],
            TextPosition::Auto => &[Self::Top, Self::Center, Self::Bottom],
        }
    }

    /// The band of a text that was moved to `position`: what was asked for, or where the middle of its visible content is.
    pub fn of(position: TextPosition, text: &RgbaImage) -> Self {
        match Self::candidates(position) {
            [band] => *band,
            _ => match masks::bounds(&masks::alpha(text), VISIBLE_ALPHA) {
                Some(content) if 3 * (content.y0 + content.y1) > 4 * text.height() => Self::Bottom,
                Some(content) if 3 * (content.y0 + content.y1) > 2 * text.height() => Self::Center,
                _ => Self::Top,
            },
        }
    }
}

/// Distance of a text from the edge it is moved to, at 1024 px.
pub const TEXT_MARGIN: f32 = 100.0;
/// Distance of an anchored product from the edges, as a share of the smaller side.
const PRODUCT_MARGIN: f64 = 0.05;
/// The default product position: its top at this share of the height.
const DEFAULT_PRODUCT_TOP: f64 = 0.55;

/// Size of a product of `image_size` on a canvas: its longer side is `scale` times the canvas's smaller side.
pub fn product_size(image_size: (u32, u32), canvas: (u32, u32), scale: f64) -> (u32, u32) {
    let longer = f64::from(image_size.0.max(image_size.1).max(1));
    let factor = scale * f64::from(canvas.0.min(canvas.1)) / longer;
    let side = |length: u32| ((f64::from(length) * factor).round() as u32).max(1);
    (side(image_size.0), side(image_size.1))
}

/// Top left corner of a product's box. Default and anchored boxes are kept on the canvas where they fit; an explicit
/// corner is taken as it is, so that a product may be cropped on purpose.
pub fn product_corner(size: (u32, u32), canvas: (u32, u32), position: ProductPosition) -> (i64, i64) {
    let free = (i64::from(canvas.0) - i64::from(size.0), i64::from(canvas.1) - i64::from(size.1));
    let margin = (PRODUCT_MARGIN * f64::from(canvas.0.min(canvas.1))).round() as i64;
    let anchored = |free: i64, side: i8| match side {
        ..0 => margin.min(free.max(0) / 2),
        0 => free / 2,
        _ => free - margin.min(free.max(0) / 2),
    };
    match position {
        ProductPosition::Default => {
            let top = (DEFAULT_PRODUCT_TOP * f64::from(canvas.1)).round() as i64;
            (free.0 / 2, top.min(free.1).max(0))
        }
        ProductPosition::Anchor { horizontal, vertical } => {
            (anchored(free.0, horizontal), anchored(free.1, vertical))
        }
        ProductPosition::At { x, y } => (i64::from(x), i64::from(y)),
    }
}

/// A copy of `image` on a transparent canvas of the same size, its visible content moved to `position` and centred
/// horizontally. Nothing visible leaves the canvas: where content and margin do not both fit, the margin gives way.
/// An image without visible content is returned as it is.
pub fn reposition_text(image: &RgbaImage, background: &RgbImage, position: TextPosition) -> RgbaImage {
    let Some(content) = masks::bounds(&masks::alpha(image), VISIBLE_ALPHA) else { return image.clone() };
    let (width, height) = image.dimensions();
    let margin = (TEXT_MARGIN * width.min(height) as f32 / 1024.0).round() as u32;
    let free = height - content.height();
    let margin = margin.min(free / 2);
    let top = match position {
        TextPosition::Top => margin,
        TextPosition::Center => free / 2,
        TextPosition::Bottom => free - margin,
        TextPosition::Auto => emptiest_top(background, content, margin),
    };
    let left = (width - content.width()) / 2;
    let mut out = RgbaImage::new(width, height);
    let bytes = content.width() as usize * 4;
    for row in 0..content.height() {
        let from = ((content.y0 + row) * width + content.x0) as usize * 4;
        let to = ((top + row) * width + left) as usize * 4;
        out.as_mut()[to..to + bytes].copy_from_slice(&image.as_raw()[from..from + bytes]);
    }
    out
}

/// Top of the emptiest band that can hold `content`: the one with the least edge energy (mean squared difference of
/// neighbouring luminances) below the text's width, among all tops within the margins. A picture that is equally empty
/// everywhere gives the top margin, and a higher band wins over one that is less than 2 % emptier.
fn emptiest_top(background: &RgbImage, content: Bounds, margin: u32) -> u32 {
    const ADVANTAGE: f64 = 0.98;
    let (width, height) = background.dimensions();
    let x0 = (width - content.width().min(width)) / 2;
    let energy = row_energy(&luminance(background), x0, x0 + content.width().min(width));
    let mut sums = Vec::with_capacity(energy.len() + 1);
    sums.push(0.0);
    let mut sum = 0.0;
    for value in energy {
        sum += value;
        sums.push(sum);
    }
    let band = content.height().min(height) as usize;
    let last = (height as usize).saturating_sub(band + margin as usize);
    let mut best = (margin as usize, f64::INFINITY);
    for top in margin as usize..=last.max(margin as usize) {
        let Some(end) = sums.get(top + band) else { break };
        let found = end - sums[top];
        if found < best.1 * ADVANTAGE {
            best = (top, found);
        }
    }
    best.0 as u32
}

/// Rec. 601 luma, as Pillow's conversion to `L`.
pub fn luminance(image: &RgbImage) -> GrayImage {
    let luma = |[r, g, b]: [u8; 3]| {
        ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
    };
    let values = image.pixels().map(|pixel| luma(pixel.0)).collect();
    GrayImage::from_raw(image.width(), image.height(), values).unwrap_or_default()
}

/// Mean squared difference to the right and lower neighbour of each row's pixels in `x0..x1`.
fn row_energy(gray: &GrayImage, x0: u32, x1: u32) -> Vec<f64> {
    let (width, height) = (gray.width() as usize, gray.height() as usize);
    let (x0, x1) = (x0 as usize, (x1 as usize).min(width.saturating_sub(1)));
    let pixels = gray.as_raw();
    let squared = |a: u8, b: u8| u64::from(a.abs_diff(b)).pow(2);
    (0..height)
        .map(|y| {
            let row = &pixels[y * width..(y + 1) * width];
            let below = &pixels[(y + 1).min(height - 1) * width..][..width];
            let sum: u64 = (x0..x1).map(|x| squared(row[x], row[x + 1]) + squared(row[x], below[x])).sum();
            sum as f64 / x1.saturating_sub(x0).max(1) as f64
        })
        .collect()
}

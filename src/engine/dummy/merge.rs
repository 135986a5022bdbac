//! Step 3 without a net: text and scene under one light.
//!
//! The draft, the mask and the final selection are those of a real merge (repaint inside the mask, keep the rest); only
//! the repainting is procedural: shadows, the scene's light on the text, a veil for what stands farther back.

use image::{GrayImage, RgbImage, RgbaImage, imageops};

use super::noise::lerp3;
use crate::imaging::blur::blur;
use crate::imaging::composite::{over, select, shade};
use crate::imaging::masks::{SOFT_MARGIN, alpha, bounds, inpaint_mask, salient_foreground, standing_before};
use crate::imaging::resample::{Filter, resize_gray, resize_rgb};
use crate::imaging::srgb::Srgb;
use crate::input::plan::CompositionMode;

/// How far beyond the text shadow, margin and their softness reach, at 1024 px.
const REACH: f32 = 150.0;
/// How a mode treats the text.
struct Look {
    /// Share of the scene's local colour in the text.
    ambient: f32,
    /// Share of the text's opacity that remains.
    opacity: f32,
    /// Strength of the far and the near shadow.
    shadows: [f32; 2],
    /// How strongly the scene's light creeps over the text's rim.
    wrap: f32,
}

impl Look {
    fn of(mode: CompositionMode) -> Self {
        match mode {
            CompositionMode::Overlay => {
                Self { ambient: 0.10, opacity: 1.0, shadows: [0.50, 0.40], wrap: 0.22 }
            }
            CompositionMode::Blend => {
                Self { ambient: 0.34, opacity: 0.92, shadows: [0.30, 0.26], wrap: 0.40 }
            }
            CompositionMode::Behind => {
                Self { ambient: 0.22, opacity: 1.0, shadows: [0.34, 0.22], wrap: 0.36 }
            }
        }
    }
}

/// Merges `text`, already in its place, into `background`; both have one size. The remark says where the mode found
/// nothing to work with.
pub fn merge(background: &RgbImage, text: &RgbaImage, mode: CompositionMode) -> (RgbImage, Option<String>) {
    let (width, height) = background.dimensions();
    let unit = width.min(height) as f32 / 1024.0;
    let (foreground, warning) = match mode {
        CompositionMode::Behind => standing_before(salient_foreground(background), text),
        CompositionMode::Overlay | CompositionMode::Blend => (None, None),
    };
    let mut out = background.clone();
    let Some(text_box) = bounds(&alpha(text), 1) else { return (out, warning) };
    // Only where the text can reach: the rest of the picture stays as it is in any case.
    let reach = (REACH * unit).ceil() as u32;
    let (x, y) = (text_box.x0.saturating_sub(reach), text_box.y0.saturating_sub(reach));
    let columns = (text_box.x1 + reach).min(width) - x;
    let rows = (text_box.y1 + reach).min(height) - y;
    let text = imageops::crop_imm(text, x, y, columns, rows).to_image();
    let foreground = foreground.map(|mask| imageops::crop_imm(&mask, x, y, columns, rows).to_image());
    let region = merge_region(
        &imageops::crop_imm(background, x, y, columns, rows).to_image(),
        &text,
        foreground.as_ref(),
        &Look::of(mode),
        unit,
    );
    imageops::replace(&mut out, &region, i64::from(x), i64::from(y));
    (out, warning)
}

/// The merge proper, on a part that holds everything the text touches.
fn merge_region(
    background: &RgbImage,
    text: &RgbaImage,
    foreground: Option<&GrayImage>,
    look: &Look,
    unit: f32,
) -> RgbImage {
    let width = background.width();
    let text_alpha = alpha(text);
    let mut draft = background.clone();
    let far = shadow(&text_alpha, 15.0 * unit);
    let near = shadow(&text_alpha, 4.0 * unit);
    shade(&mut draft, &far, (0, (20.0 * unit) as i64), look.shadows[0]);
    shade(&mut draft, &near, (0, (6.0 * unit) as i64), look.shadows[1]);
    over(&mut draft, &lit_text(background, text, &text_alpha, look, unit), (0, 0));

    // Everything that the shadow touches belongs to the region that may change.
    let mut touched = text_alpha;
    let offset = (20.0 * unit) as usize * width as usize;
    for (index, value) in far.iter().enumerate() {
        if let Some(target) = touched.as_mut().get_mut(index + offset) {
            *target = (*target).max(if *value > 2 { 255 } else { 0 });
        }
    }
    let mask = inpaint_mask(&touched, (SOFT_MARGIN * unit) as u32, foreground);
    // All three have the background's size.
    select(background, &draft, &mask).unwrap_or(draft)
}

/// A blurred copy, computed at a quarter of the size where the blur is wide: nothing finer survives it.
fn shadow(mask: &GrayImage, sigma: f32) -> GrayImage {
    if sigma < 8.0 {
        return blur(mask, sigma);
    }
    let (width, height) = mask.dimensions();
    let small = resize_gray(mask, (width / 4).max(1), (height / 4).max(1), Filter::Bilinear);
    resize_gray(&blur(&small, sigma / 4.0), width, height, Filter::Bilinear)
}

/// The text as the scene's light makes it.
fn lit_text(background: &RgbImage, text: &RgbaImage, alpha: &GrayImage, look: &Look, unit: f32) -> RgbaImage {
    let srgb = Srgb::new();
    let (width, height) = text.dimensions();
    // The scene's light near each point: its colours without its shapes.
    let small = resize_rgb(background, (width / 24).max(1), (height / 24).max(1), Filter::Bilinear);
    let near_light = resize_rgb(&imageops::blur(&small, 1.6), width, height, Filter::Bicubic);
    let body = blur(alpha, 5.0 * unit);
    let mut out = text.clone();
    for (((pixel, near), body), behind) in
        out.pixels_mut().zip(near_light.pixels()).zip(body.iter()).zip(background.pixels())
    {
        if pixel.0[3] == 0 {
            continue;
        }
        let [r, g, b, a] = pixel.0;
        let own = srgb.linear3([r, g, b]);
        let near = srgb.linear3(near.0);
        let behind = srgb.linear3(behind.0);
        let brightness = (own[0] * 0.2126 + own[1] * 0.7152 + own[2] * 0.0722).clamp(0.0, 1.0);
        // What shines through: mostly the blurred scene, a little of the sharp one, stronger in the text's lights.
        let through = lerp3(near, behind, 0.35).map(|light| light * (0.45 + 1.3 * brightness));
        let mut lit = lerp3(own, through, look.ambient * (0.5 + 0.5 * (1.0 - brightness)));
        // Light wraps around the rim, where the blurred body is thin.
        let rim = (1.0 - f32::from(*body) / 255.0).clamp(0.0, 1.0);
        lit = lerp3(lit, near, rim * look.wrap);
        let [r, g, b] = srgb.bytes3(lit);
        pixel.0 = [r, g, b, (f32::from(a) * look.opacity + 0.5) as u8];
    }
    out
}

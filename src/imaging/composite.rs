//! Putting layers over one another in linear light.
//!
//! sRGB bytes are brightness as seen, not light: mixing them darkens every soft edge. Called by both engines; a later
//! engine's plain composite (when its net fails) is [`over`].

use image::{GrayImage, RgbImage, RgbaImage};

use super::srgb::Srgb;

/// `layer` (straight alpha) over `base`, its top left corner at `corner`; what lies outside is left out.
pub fn over(base: &mut RgbImage, layer: &RgbaImage, corner: (i64, i64)) {
    let srgb = Srgb::new();
    each_overlap(base, layer.dimensions(), corner, |pixel, x, y| {
        let [r, g, b, alpha] = layer.get_pixel(x, y).0;
        match alpha {
            0 => {}
            255 => *pixel = [r, g, b],
            _ => *pixel = mix(srgb, *pixel, [r, g, b], f32::from(alpha) / 255.0),
        }
    });
}

/// Darkens `base` by a shadow of the given strength (0..=1) where `mask` is white: light is taken away, not painted over.
pub fn shade(base: &mut RgbImage, mask: &GrayImage, corner: (i64, i64), strength: f32) {
    let srgb = Srgb::new();
    each_overlap(base, mask.dimensions(), corner, |pixel, x, y| {
        let shadow = f32::from(mask.get_pixel(x, y).0[0]) / 255.0 * strength;
        if shadow > 0.0 {
            *pixel = srgb.bytes3(srgb.linear3(*pixel).map(|light| light * (1.0 - shadow)));
        }
    });
}

/// `over` where `mask` is white, `under` where it is black. The three must have one size; `None` otherwise.
pub fn select(under: &RgbImage, over: &RgbImage, mask: &GrayImage) -> Option<RgbImage> {
    if under.dimensions() != over.dimensions() || under.dimensions() != mask.dimensions() {
        return None;
    }
    let srgb = Srgb::new();
    let mut out = under.clone();
    for ((out, over), mask) in out.pixels_mut().zip(over.pixels()).zip(mask.iter()) {
        match mask {
            0 => {}
            255 => *out = *over,
            &mask => out.0 = mix(srgb, out.0, over.0, f32::from(mask) / 255.0),
        }
    }
    Some(out)
}

/// `share` of `above` and the rest of `below`, in linear light.
pub fn mix(srgb: Srgb, below: [u8; 3], above: [u8; 3], share: f32) -> [u8; 3] {
    std::array::from_fn(|c| {
        let (below, above) = (srgb.linear(below[c]), srgb.linear(above[c]));
        srgb.byte(below + (above - below) * share)
    })
}

/// Calls `paint` with each pixel of `base` that a layer of `size` at `corner` covers, and its place in the layer.
fn each_overlap(
    base: &mut RgbImage,
    size: (u32, u32),
    corner: (i64, i64),
    mut paint: impl FnMut(&mut [u8; 3], u32, u32),
) {
    let (width, height) = (i64::from(base.width()), i64::from(base.height()));
    let columns = corner.0.max(0)..(corner.0 + i64::from(size.0)).min(width);
    let rows = corner.1.max(0)..(corner.1 + i64::from(size.1)).min(height);
    for y in rows {
        for x in columns.clone() {
            let pixel = base.get_pixel_mut(x as u32, y as u32);
            paint(&mut pixel.0, (x - corner.0) as u32, (y - corner.1) as u32);
        }
    }
}

//! A picture brought to the size and the channels that a step needs.

use image::{DynamicImage, Rgb, RgbImage};

use crate::imaging::resample::{self, Filter};

/// `image` at exactly `width` x `height`, resampled as Pillow's Lanczos does it.
pub fn fit_to(image: DynamicImage, width: u32, height: u32) -> DynamicImage {
    if (image.width(), image.height()) == (width, height) {
        image
    } else {
        resample::resize(&image, width, height, Filter::Lanczos)
    }
}

/// `image` without alpha, on white; the flag says whether anything was transparent.
pub fn on_white(image: DynamicImage) -> (RgbImage, bool) {
    if !image.color().has_alpha() {
        return (image.into_rgb8(), false);
    }
    let rgba = image.into_rgba8();
    let mut transparent = false;
    let mut flat = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in flat.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, a] = from.0;
        transparent |= a < 255;
        let a = u16::from(a);
        // Rounded division by 255; the sum is at most 255 * 255.
        let mix = |c: u8| ((u16::from(c) * a + 255 * (255 - a) + 127) / 255) as u8;
        *to = Rgb([mix(r), mix(g), mix(b)]);
    }
    (flat, transparent)
}

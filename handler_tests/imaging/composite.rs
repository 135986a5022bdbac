//! Layers are mixed in linear light.

use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use marquee::imaging::composite::{over, select, shade};
use marquee::imaging::srgb::Srgb;

fn decode(byte: u8) -> f64 {
    let v = f64::from(byte) / 255.0;
    if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

fn encode(linear: f64) -> f64 {
    let v = if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
    v * 255.0
}

fn near(found: u8, exact: f64, what: &str) {
    assert!((f64::from(found) - exact).abs() <= 1.0, "{what}: found {found}, exact {exact:.3}");
}

#[test]
fn every_byte_survives_linear_light() {
    let srgb = Srgb::new();
    for byte in 0..=255 {
        assert_eq!(srgb.byte(srgb.linear(byte)), byte);
    }
}

#[test]
fn alpha_over_equals_the_exact_mix() {
    for (below, above) in [(0_u8, 255_u8), (255, 0), (12, 200), (180, 40), (90, 91)] {
        for alpha in 0..=255_u8 {
            let mut base = RgbImage::from_pixel(1, 1, Rgb([below, below, below]));
            over(&mut base, &RgbaImage::from_pixel(1, 1, Rgba([above, above, above, alpha])), (0, 0));
            let share = f64::from(alpha) / 255.0;
            let exact = encode(decode(below) * (1.0 - share) + decode(above) * share);
            near(base.get_pixel(0, 0).0[0], exact, &format!("{above} over {below} at {alpha}"));
        }
    }
}

#[test]
fn half_white_over_black_is_brighter_than_half_a_byte() {
    let mut base = RgbImage::new(1, 1);
    over(&mut base, &RgbaImage::from_pixel(1, 1, Rgba([255, 255, 255, 128])), (0, 0));
    assert_eq!(base.get_pixel(0, 0).0, [188; 3], "128 would be a mix of bytes");
}

#[test]
fn shadow_takes_light_away() {
    let mut base = RgbImage::from_pixel(1, 1, Rgb([200, 100, 50]));
    shade(&mut base, &GrayImage::from_pixel(1, 1, Luma([255])), (0, 0), 0.5);
    for (found, before) in base.get_pixel(0, 0).0.into_iter().zip([200, 100, 50]) {
        near(found, encode(decode(before) / 2.0), "half the light");
    }
}

#[test]
fn a_layer_over_the_border_is_cropped() {
    let red = RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 255]));
    for (corner, painted) in
        [((-2, -2), 4), ((3, 3), 1), ((-4, 0), 0), ((5, 5), 0), ((i64::from(i32::MIN), 0), 0)]
    {
        let mut base = RgbImage::new(4, 4);
        over(&mut base, &red, corner);
        assert_eq!(base.pixels().filter(|pixel| pixel.0[0] == 255).count(), painted, "at {corner:?}");
    }
}

#[test]
fn select_takes_each_side_where_the_mask_says() {
    let (under, above) = (RgbImage::from_pixel(3, 1, Rgb([0; 3])), RgbImage::from_pixel(3, 1, Rgb([255; 3])));
    let mask = GrayImage::from_raw(3, 1, vec![0, 128, 255]).unwrap();
    let mixed = select(&under, &above, &mask).unwrap();
    assert_eq!(mixed.as_raw()[..3], [0; 3]);
    assert_eq!(mixed.as_raw()[3], 188);
    assert_eq!(mixed.as_raw()[6..], [255; 3]);
    assert!(select(&under, &above, &GrayImage::new(2, 1)).is_none());
}

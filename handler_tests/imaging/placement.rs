//! Where text and product go.

use image::{Rgb, RgbImage, Rgba, RgbaImage};
use marquee::imaging::masks::{alpha, bounds};
use marquee::imaging::placement::{product_corner, product_size, reposition_text};
use marquee::input::plan::{ProductPosition, TextPosition};

/// A bar of 400 x 120 somewhere on a 1024 canvas.
fn bar(x0: u32, y0: u32) -> RgbaImage {
    let inside = |x: u32, y: u32| (x0..x0 + 400).contains(&x) && (y0..y0 + 120).contains(&y);
    RgbaImage::from_fn(1024, 1024, |x, y| if inside(x, y) { Rgba([9, 8, 7, 255]) } else { Rgba([0; 4]) })
}

/// Stripes everywhere but in the rows given.
fn busy_but(quiet: std::ops::Range<u32>) -> RgbImage {
    RgbImage::from_fn(1024, 1024, |x, y| {
        if quiet.contains(&y) {
            Rgb([90; 3])
        } else {
            Rgb([if (x / 4 + y / 4) % 2 == 0 { 20 } else { 220 }; 3])
        }
    })
}

fn top_after(position: TextPosition, background: &RgbImage) -> u32 {
    let moved = reposition_text(&bar(37, 611), background, position);
    let content = bounds(&alpha(&moved), 1).unwrap();
    assert_eq!((content.width(), content.height()), (400, 120), "nothing is lost");
    assert_eq!(content.x0, 312, "centred");
    assert_eq!(moved.get_pixel(content.x0, content.y0).0, [9, 8, 7, 255], "pixels are moved, not resampled");
    content.y0
}

#[test]
fn text_moves_to_its_position_with_a_margin() {
    let even = RgbImage::new(1024, 1024);
    assert_eq!(top_after(TextPosition::Top, &even), 100);
    assert_eq!(top_after(TextPosition::Center, &even), 452);
    assert_eq!(top_after(TextPosition::Bottom, &even), 1024 - 100 - 120);
}

#[test]
fn auto_finds_the_empty_band() {
    for quiet in [300..460, 640..800, 130..280] {
        let top = top_after(TextPosition::Auto, &busy_but(quiet.clone()));
        assert!(quiet.start <= top && top + 120 <= quiet.end, "top {top} in {quiet:?}");
    }
}

#[test]
fn auto_keeps_the_margin_and_prefers_the_top_of_an_even_picture() {
    assert_eq!(top_after(TextPosition::Auto, &RgbImage::new(1024, 1024)), 100);
    assert_eq!(top_after(TextPosition::Auto, &busy_but(0..120)), 100, "not above the margin");
    assert_eq!(top_after(TextPosition::Auto, &busy_but(900..1024)), 804, "not below it");
}

#[test]
fn content_that_fills_the_canvas_stays_whole() {
    let full = RgbaImage::from_pixel(64, 64, Rgba([1, 2, 3, 255]));
    for position in [TextPosition::Top, TextPosition::Center, TextPosition::Bottom, TextPosition::Auto] {
        assert_eq!(reposition_text(&full, &RgbImage::new(64, 64), position), full);
    }
    let nothing = RgbaImage::new(64, 64);
    assert_eq!(reposition_text(&nothing, &RgbImage::new(64, 64), TextPosition::Bottom), nothing);
}

#[test]
fn product_positions_are_those_of_the_table() {
    let (size, canvas) = ((200, 300), (1024, 768));
    let at = |position| product_corner(size, canvas, position);
    assert_eq!(at(ProductPosition::Default), (412, 422), "centred, top at 55 %");
    let anchor = |horizontal, vertical| at(ProductPosition::Anchor { horizontal, vertical });
    assert_eq!(anchor(0, 0), (412, 234));
    assert_eq!(anchor(-1, -1), (38, 38));
    assert_eq!(anchor(1, 1), (1024 - 200 - 38, 768 - 300 - 38));
    assert_eq!(at(ProductPosition::At { x: -20, y: 700 }), (-20, 700), "as asked");
}

#[test]
fn a_tall_product_at_the_default_position_stays_on_the_canvas() {
    assert_eq!(product_corner((300, 700), (1024, 1024), ProductPosition::Default), (362, 324));
}

#[test]
fn product_size_follows_the_smaller_side() {
    assert_eq!(product_size((1000, 2000), (1024, 768), 0.5), (192, 384));
    assert_eq!(product_size((1, 5000), (256, 256), 0.05), (1, 13), "never thinner than a pixel");
}

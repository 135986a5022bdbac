//! Masks, blurs and salience.

use image::{GrayImage, Luma, Rgb, RgbImage};
use marquee::imaging::blur::{Plane, blur, dilate};
use marquee::imaging::masks::{Bounds, bounds, inpaint_mask, salient_foreground};

fn dot(size: u32) -> GrayImage {
    let mut image = GrayImage::new(size, size);
    image.put_pixel(size / 2, size / 2, Luma([255]));
    image
}

#[test]
fn dilation_is_the_greatest_of_a_square() {
    let mut image = GrayImage::new(19, 13);
    for (index, value) in image.iter_mut().enumerate() {
        *value = ((index * 7919) % 251) as u8;
    }
    for radius in [0_i64, 1, 2, 3, 5, 20] {
        let grown = dilate(&image, radius as u32);
        for (x, y, found) in grown.enumerate_pixels() {
            let (x, y) = (i64::from(x), i64::from(y));
            let expected = image
                .enumerate_pixels()
                .filter(|(px, py, _)| {
                    (i64::from(*px) - x).abs() <= radius && (i64::from(*py) - y).abs() <= radius
                })
                .map(|(_, _, value)| value.0[0])
                .max()
                .unwrap();
            assert_eq!(found.0[0], expected, "radius {radius} at {x}, {y}");
        }
    }
}

#[test]
fn blur_keeps_the_sum_and_has_the_asked_deviation() {
    for sigma in [1.5_f32, 4.0, 9.0] {
        let mut plane = Plane::filled(101, 101, 0.0);
        plane.values[50 * 101 + 50] = 1.0;
        let soft = plane.blurred(sigma);
        let sum: f32 = soft.values.iter().sum();
        assert!((sum - 1.0).abs() < 1e-3, "sum {sum}");
        let variance: f32 =
            soft.values.iter().enumerate().map(|(i, v)| v * ((i % 101) as f32 - 50.0).powi(2)).sum::<f32>();
        assert!((variance.sqrt() - sigma).abs() < 0.15 * sigma, "sigma {sigma}, found {}", variance.sqrt());
    }
}

#[test]
fn blur_repeats_the_border() {
    assert!(blur(&GrayImage::from_pixel(9, 5, Luma([200])), 3.0).iter().all(|&v| v == 200));
}

#[test]
fn bounds_are_tight() {
    let mut mask = GrayImage::new(20, 10);
    assert_eq!(bounds(&mask, 1), None);
    mask.put_pixel(3, 2, Luma([9]));
    mask.put_pixel(17, 7, Luma([9]));
    assert_eq!(bounds(&mask, 9), Some(Bounds { x0: 3, y0: 2, x1: 18, y1: 8 }));
    assert_eq!(bounds(&mask, 10), None);
}

#[test]
fn the_mask_covers_the_text_and_a_soft_margin() {
    let text = dot(61);
    let mask = inpaint_mask(&text, 8, None);
    assert_eq!(mask.get_pixel(30, 30).0[0], 255, "the text itself");
    assert!(mask.get_pixel(30 + 6, 30).0[0] > 64, "the margin");
    let edge: Vec<u8> = (30..61).map(|x| mask.get_pixel(x, 30).0[0]).collect();
    assert!(edge.is_sorted_by(|a, b| a >= b), "falls outwards: {edge:?}");
    assert!(edge.iter().filter(|&&v| v > 0 && v < 255).count() > 3, "softly: {edge:?}");
    assert_eq!(mask.get_pixel(0, 0).0[0], 0, "far away");
}

#[test]
fn what_stands_in_front_is_not_repainted() {
    let text = GrayImage::from_pixel(30, 30, Luma([255]));
    let mut front = GrayImage::new(30, 30);
    for x in 10..20 {
        front.put_pixel(x, 15, Luma([255]));
    }
    let mask = inpaint_mask(&text, 4, Some(&front));
    assert_eq!(mask.get_pixel(12, 15).0[0], 0);
    assert_eq!(mask.get_pixel(12, 2).0[0], 255);
}

#[test]
fn an_object_on_a_layered_scene_is_salient_and_the_scene_is_not() {
    let scene =
        |x: u32, y: u32| if y < 120 { Rgb([150 + (x / 16) as u8, 190, 230]) } else { Rgb([120, 90, 60]) };
    let mut image = RgbImage::from_fn(256, 256, scene);
    assert!(salient_foreground(&image).iter().all(|&v| v == 0), "layers alone are no object");
    for y in 100..200 {
        for x in 100..150 {
            image.put_pixel(x, y, Rgb([200, 20, 40]));
        }
    }
    let mask = salient_foreground(&image);
    assert!(mask.get_pixel(125, 150).0[0] > 240, "inside");
    for (x, y) in [(20, 150), (230, 150), (125, 30), (125, 240)] {
        assert!(mask.get_pixel(x, y).0[0] < 16, "outside at {x}, {y}");
    }
}

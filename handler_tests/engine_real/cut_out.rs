//! Products and texts without their ground, whatever segmentation says.

use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use marquee::engine::real::cut_out;
use marquee::imaging::masks::{alpha, bounds};
use marquee::input::plan::{ProductPlan, ProductPosition};

/// Red between the columns 30 and 70 of 100, on grey.
fn photo() -> RgbImage {
    RgbImage::from_fn(100, 200, |x, y| {
        if (30..70).contains(&x) && (40..160).contains(&y) {
            Rgb([210, 20, 30])
        } else {
            Rgb([120, 120, 120])
        }
    })
}

fn plan() -> ProductPlan {
    ProductPlan {
        image: DynamicImage::ImageRgb8(photo()),
        scale: 0.5,
        position: ProductPosition::Default,
        prompt: String::new(),
        negative_prompt: String::new(),
        strength: 0.5,
    }
}

#[test]
fn a_product_is_its_subject_alone_at_the_size_that_was_asked_for() {
    let (product, warning) = cut_out::product(&plan(), (480, 240), |seen| {
        assert_eq!(seen.dimensions(), (100, 200));
        Ok(GrayImage::from_fn(100, 200, |x, y| {
            Luma([if (30..70).contains(&x) && (40..160).contains(&y) { 255 } else { 0 }])
        }))
    })
    .unwrap();
    assert_eq!(warning, None);
    // The longer side of the subject, 120, becomes half of the canvas's smaller side.
    assert_eq!(product.dimensions(), (40, 120));
    assert!(product.pixels().all(|pixel| pixel.0[3] > 250 && pixel.0[0] > 200 && pixel.0[1] < 30));
}

#[test]
fn a_photo_without_a_subject_is_placed_whole_and_the_customer_is_told() {
    let (product, warning) =
        cut_out::product(&plan(), (480, 240), |_| Ok(GrayImage::from_pixel(100, 200, Luma([7])))).unwrap();
    assert!(warning.unwrap().contains("whole photo"));
    assert_eq!(product.dimensions(), (60, 120));
    assert!(product.pixels().all(|pixel| pixel.0[3] == 255));
}

#[test]
fn a_text_that_is_not_found_keeps_the_outline_in_which_it_was_set() {
    let shape = GrayImage::from_fn(100, 200, |x, _| Luma([if (20..60).contains(&x) { 255 } else { 0 }]));
    let (found, warning) = cut_out::text(&photo(), &GrayImage::new(100, 200), &shape).unwrap();
    assert!(warning.unwrap().contains("outline"));
    let outline = bounds(&alpha(&found), 8).unwrap();
    assert_eq!((outline.x0, outline.x1), (20, 60));
    let mask = GrayImage::from_fn(100, 200, |x, _| Luma([if (30..70).contains(&x) { 200 } else { 0 }]));
    let (found, warning) = cut_out::text(&photo(), &mask, &shape).unwrap();
    assert_eq!(warning, None);
    assert_eq!(alpha(&found), mask);
}

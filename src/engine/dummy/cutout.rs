//! A product photo without its ground, placed into the scene with its shadow.
//!
//! Stands in for segmentation and product injection: alpha is taken where the photo has it, else a ground of even colour
//! is keyed out from the borders. What cannot be told apart stays as it is, and the customer is told.

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage, imageops};

use crate::imaging::blur::blur;
use crate::imaging::composite::{over, shade};
use crate::imaging::masks::{VISIBLE_ALPHA, alpha, bounds, is_cut_out};
use crate::imaging::placement::{product_corner, product_size};
use crate::imaging::resample::{Filter, resize, resize_gray, resize_rgba};
use crate::input::plan::ProductPlan;

/// The ground is sought on a photo of at most this side, as segmentation nets do.
const WORKING_SIDE: u32 = 1024;
/// Largest channel difference to the border's colour that still is ground.
const TOLERANCE: i32 = 26;

/// Share of the border that must have the ground's colour; a product may touch the rest.
const LEAST_EVEN_BORDER: f64 = 0.7;

/// A product ready to be placed.
pub struct Product {
    image: RgbaImage,
    corner: (i64, i64),
    /// What the customer should know about the cut.
    pub warning: Option<String>,
}

impl Product {
    /// Cuts out, crops to what is visible, and scales.
    pub fn cut_out(plan: &ProductPlan, canvas: (u32, u32)) -> Self {
        let photo = &plan.image;
        let longer = photo.width().max(photo.height());
        let working = if longer > WORKING_SIDE {
            let side =
                |length: u32| (u64::from(length) * u64::from(WORKING_SIDE) / u64::from(longer)).max(1) as u32;
            &resize(photo, side(photo.width()), side(photo.height()), Filter::Lanczos)
        } else {
            photo
        };
        let (cut, warning) = without_ground(working);
        let cut = match bounds(&alpha(&cut), VISIBLE_ALPHA) {
            Some(b) => imageops::crop_imm(&cut, b.x0, b.y0, b.width(), b.height()).to_image(),
            None => cut,
        };
        let size = product_size(cut.dimensions(), canvas, plan.scale);
        let image = resize_rgba(&cut, size.0, size.1, Filter::Lanczos);
        Self { image, corner: product_corner(size, canvas, plan.position), warning }
    }

    /// Shadow, then product.
    pub fn place(&self, scene: &mut RgbImage) {
        let (width, height) = self.image.dimensions();
        let flat = (height / 8).max(2);
        let pad = width.max(height) / 8 + 2;
        let silhouette = resize_gray(&alpha(&self.image), width, flat, Filter::Bilinear);
        let foot = i64::from(height) - i64::from(flat) * 4 / 5;
        // A wide soft shadow and a tight dark one where product and ground touch.
        for (spread, strength) in [(pad as f32 * 0.42, 0.55), (pad as f32 * 0.10, 0.6)] {
            let mut mask = GrayImage::new(width + 2 * pad, flat + 2 * pad);
            imageops::replace(&mut mask, &silhouette, i64::from(pad), i64::from(pad));
            let corner = (self.corner.0 - i64::from(pad), self.corner.1 + foot - i64::from(pad));
            shade(scene, &blur(&mask, spread), corner, strength);
        }
        over(scene, &self.image, self.corner);
    }
}

/// The photo with its ground transparent, and a remark where there was none to find.
fn without_ground(photo: &DynamicImage) -> (RgbaImage, Option<String>) {
    let mut image = photo.to_rgba8();
    if is_cut_out(photo) {
        return (image, None);
    }
    let ground = ground_mask(&image);
    let share = ground.iter().filter(|&&is_ground| is_ground).count() as f64 / ground.len().max(1) as f64;
    if !(0.03..0.97).contains(&share) {
        let warning = "test mode found no even ground around the product: the whole photo is placed. Send a photo with \
                       a transparent or plain background";
        return (image, Some(warning.to_owned()));
    }
    let opaque = ground.iter().map(|&is_ground| if is_ground { 0 } else { 255 }).collect();
    let mask = GrayImage::from_raw(image.width(), image.height(), opaque).unwrap_or_default();
    // Drawn in by half a pixel and softened, so that no fringe of the ground stays.
    for (pixel, &soft) in image.pixels_mut().zip(blur(&mask, 1.2).iter()) {
        pixel.0[3] = ((i32::from(soft) - 112).max(0) * 255 / 143).min(255) as u8;
    }
    (image, None)
}

/// Pixels of the border's colour that the border reaches.
fn ground_mask(image: &RgbaImage) -> Vec<bool> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let border = || {
        let rows = (0..width).flat_map(move |x| [x, (height - 1) * width + x]);
        rows.chain((0..height).flat_map(move |y| [y * width, y * width + width - 1]))
    };
    let pixels = image.as_raw().as_chunks::<4>().0;
    let reference: [i32; 3] = std::array::from_fn(|c| {
        let mut values: Vec<u8> = border().map(|at| pixels[at][c]).collect();
        let middle = values.len() / 2;
        i32::from(*values.select_nth_unstable(middle).1)
    });
    let is_ground = |at: usize| (0..3).all(|c| (i32::from(pixels[at][c]) - reference[c]).abs() <= TOLERANCE);
    let mut reached = vec![false; pixels.len()];
    let (even, all) = border().fold((0, 0), |(even, all), at| (even + usize::from(is_ground(at)), all + 1));
    if (even as f64) < LEAST_EVEN_BORDER * f64::from(all) {
        return reached;
    }
    let mut open: Vec<usize> = Vec::new();
    for at in border() {
        if !reached[at] && is_ground(at) {
            reached[at] = true;
            open.push(at);
        }
    }
    while let Some(at) = open.pop() {
        let (x, y) = (at % width, at / width);
        let neighbours = [
            (x > 0).then(|| at - 1),
            (x + 1 < width).then(|| at + 1),
            (y > 0).then(|| at - width),
            (y + 1 < height).then(|| at + width),
        ];
        for next in neighbours.into_iter().flatten() {
            if !reached[next] && is_ground(next) {
                reached[next] = true;
                open.push(next);
            }
        }
    }
    reached
}

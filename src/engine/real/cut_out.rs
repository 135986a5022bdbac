//! BiRefNet, and what is done where it finds nothing.

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage, imageops};

use super::fault::Fault;
use super::itinerary::Act;
use super::journey::Journey;
use super::watch::check;
use crate::imaging::masks::{VISIBLE_ALPHA, alpha, bounds};
use crate::imaging::placement::product_size;
use crate::imaging::resample::{Filter, resize_gray, resize_rgb, resize_rgba};
use crate::input::plan::ProductPlan;
use crate::memory::Handle;
use crate::models::birefnet::{BiRefNet, refine_foreground};
use crate::progress::SubStep;

pub use crate::imaging::masks::is_cut_out;

/// How much each pixel belongs to `picture`'s subject: 0 to 255, the picture's size.
///
/// # Errors
/// The net's, a stop.
pub fn segment(
    journey: &mut Journey<'_>,
    net: Handle<BiRefNet>,
    picture: &RgbImage,
    sub_step: SubStep,
) -> Result<GrayImage, Fault> {
    journey.visit(sub_step, Act::Segment, |journey| {
        let (net, ctx) = (journey.lease(net)?, journey.ctx());
        Ok(net.segment(picture, &mut |_| check(ctx))?)
    })
}

/// A product without its ground, at the size at which it is placed on `canvas`.
///
/// The photo may have 50 megapixels, the product a few hundred: what is not its subject is cut away first, and colours are
/// freed of the ground's light at the size that is needed.
///
/// # Errors
/// What `segment` returns.
pub fn product(
    plan: &ProductPlan,
    canvas: (u32, u32),
    segment: impl FnOnce(&RgbImage) -> Result<GrayImage, Fault>,
) -> Result<(RgbaImage, Option<String>), Fault> {
    if is_cut_out(&plan.image) {
        let photo = plan.image.to_rgba8();
        let cut = match bounds(&alpha(&photo), VISIBLE_ALPHA) {
            Some(b) => imageops::crop_imm(&photo, b.x0, b.y0, b.width(), b.height()).to_image(),
            None => photo,
        };
        let (width, height) = product_size(cut.dimensions(), canvas, plan.scale);
        return Ok((resize_rgba(&cut, width, height, Filter::Lanczos), None));
    }
    let photo = plan.image.to_rgb8();
    let mask = segment(&photo)?;
    let Some(subject) = bounds(&mask, VISIBLE_ALPHA) else {
        let (width, height) = product_size(photo.dimensions(), canvas, plan.scale);
        let whole = DynamicImage::ImageRgb8(resize_rgb(&photo, width, height, Filter::Lanczos)).into_rgba8();
        let warning = "no product stands out in product_image: the whole photo is placed. Send a photo with a plain or \
                       transparent background";
        return Ok((whole, Some(warning.to_owned())));
    };
    let (x, y, columns, rows) = (subject.x0, subject.y0, subject.width(), subject.height());
    let (width, height) = product_size((columns, rows), canvas, plan.scale);
    let photo = imageops::crop_imm(&photo, x, y, columns, rows).to_image();
    let mask = imageops::crop_imm(&mask, x, y, columns, rows).to_image();
    let photo = resize_rgb(&photo, width, height, Filter::Lanczos);
    let mask = resize_gray(&mask, width, height, Filter::Lanczos);
    Ok((with_alpha(&refine_foreground(&photo, &mask)?, &mask), None))
}

/// The text on a transparent ground. `shape` is the phrase as it was set, which serves where nothing was found.
///
/// # Errors
/// Pictures of different sizes.
pub fn text(
    picture: &RgbImage,
    mask: &GrayImage,
    shape: &GrayImage,
) -> Result<(RgbaImage, Option<String>), Fault> {
    if bounds(mask, VISIBLE_ALPHA).is_some() {
        return Ok((with_alpha(&refine_foreground(picture, mask)?, mask), None));
    }
    let warning = "no object stands out in the text picture: the phrase's own outline is cut out instead";
    Ok((with_alpha(picture, shape), Some(warning.to_owned())))
}

/// Colours and opacity side by side; both have one size.
fn with_alpha(picture: &RgbImage, alpha: &GrayImage) -> RgbaImage {
    let mut out = RgbaImage::new(picture.width(), picture.height());
    for ((out, colour), alpha) in out.pixels_mut().zip(picture.pixels()).zip(alpha.pixels()) {
        let ([red, green, blue], [alpha]) = (colour.0, alpha.0);
        out.0 = [red, green, blue, alpha];
    }
    out
}

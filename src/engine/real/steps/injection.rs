//! Step 1's product: cut out of its photo, scaled, placed, and repainted in the scene's light.

use image::{GrayImage, RgbImage, RgbaImage, imageops};

use crate::engine::EngineError;
use crate::engine::real::flux::{self, Draft};
use crate::engine::real::journey::Journey;
use crate::engine::real::studio::Studio;
use crate::engine::real::{cut_out, fault::Fault};
use crate::imaging::composite::{over, select};
use crate::imaging::masks::{alpha, inpaint_mask};
use crate::imaging::placement::product_corner;
use crate::input::plan::ProductPlan;
use crate::progress::SubStep;

/// How far beyond the product's outline the scene may change, at 1024 px: two cells of the latent grid, room for a contact
/// shadow and for the cells that the outline cuts through.
const MARGIN: f32 = 16.0;

const SUB_STEP: SubStep = SubStep::FeatureInjection;

/// A product ready to be placed.
pub struct Product {
    image: RgbaImage,
    corner: (i64, i64),
}

/// Frees `product` of its ground, and scales it for `canvas`.
///
/// # Errors
/// [`EngineError`].
pub fn cut_out(
    studio: &Studio<'_>,
    journey: &mut Journey<'_>,
    product: &ProductPlan,
    canvas: (u32, u32),
) -> Result<Product, EngineError> {
    journey.sub_step(SubStep::Segmentation, |journey, _| {
        let (image, warning) = cut_out::product(product, canvas, |photo| {
            cut_out::segment(journey, studio.nets.birefnet()?, photo, SubStep::Segmentation)
        })?;
        journey.warnings.extend(warning);
        let corner = product_corner(image.dimensions(), canvas, product.position);
        Ok(Product { image, corner })
    })
}

/// `scene` with `product` in it.
///
/// # Errors
/// [`EngineError`].
pub fn inject(
    studio: &mut Studio<'_>,
    journey: &mut Journey<'_>,
    scene: &RgbImage,
    product: &Product,
) -> Result<RgbImage, EngineError> {
    journey.sub_step(SUB_STEP, |journey, progress| {
        let (width, height) = scene.dimensions();
        let mut draft = scene.clone();
        over(&mut draft, &product.image, product.corner);
        let Some(run) = studio.flux_run(journey, SUB_STEP)? else { return Ok(draft) };
        let mut placed = GrayImage::new(width, height);
        imageops::replace(&mut placed, &alpha(&product.image), product.corner.0, product.corner.1);
        let margin = (MARGIN * width.min(height) as f32 / 1024.0).round() as u32;
        let mask = inpaint_mask(&placed, margin, None);
        let draft = Draft { image: &draft, mask: &mask };
        let painted =
            flux::paint(journey, studio.nets.flux()?, studio.plan, &run, 0, Some(&draft), progress)?;
        // What is not the product's comes back from the autoencoder a little duller than it went in.
        select(scene, &painted, &mask).ok_or_else(|| sizes("feature_injection"))
    })
}

/// FLUX gave another size than it was asked for.
pub(super) fn sizes(what: &str) -> Fault {
    Fault::Defect(format!("{what}: the painted picture has another size than its draft"))
}

//! BiRefNet, its deformable layer, and the steps around the net.

use candle_core::{Device, Result, Tensor};
use image::{DynamicImage, GrayImage};
use serde::Deserialize;

use super::golden::{Case, Golden};
use super::nets::{Stages, decoded};
use super::pictures::bytes;
use crate::models::birefnet::aspp::DeformableConv;
use crate::models::birefnet::resize::resize;
use crate::models::birefnet::{
    BiRefNet, BiRefNetConfig, mask_of_logits, picture_to_tensor, refine_foreground,
};

fn one(name: &str, tensor: Tensor) -> Stages {
    vec![(name.to_owned(), tensor)]
}

fn grey(picture: GrayImage) -> Result<Tensor> {
    let shape = (picture.height() as usize, picture.width() as usize);
    Tensor::from_vec(picture.into_raw(), shape, &Device::Cpu)
}

fn picture_in(golden: &Golden, case: &Case, role: &str) -> Result<DynamicImage> {
    decoded(&golden.input(case, role)?)
}

/// Features and logits.
pub(super) fn net(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<BiRefNetConfig>(case, "net")?;
    let net = BiRefNet::new(&config, &weights)?;
    let x = golden.input(case, "x")?;
    let features = net.features(&x, &mut |_| Ok(()))?;
    let mut stages: Stages =
        features.into_iter().enumerate().map(|(index, x)| (format!("x{}", index + 1), x)).collect();
    stages.push(("logits".to_owned(), net.logits(&x, &mut |_| Ok(()))?));
    Ok(stages)
}

#[derive(Deserialize)]
struct Sizes {
    inputs: usize,
    outputs: usize,
    kernel: usize,
}

/// One deformable convolution with offsets of its own making.
pub(super) fn deformable(golden: &Golden, case: &Case) -> Result<Stages> {
    let (Sizes { inputs, outputs, kernel }, weights) = golden.net(case, "layer")?;
    let layer = DeformableConv::new(inputs, outputs, kernel, &weights)?;
    Ok(one("y", layer.forward(&golden.input(case, "x")?)?))
}

/// Resizing of feature maps.
pub(super) fn aligned_resize(golden: &Golden, case: &Case) -> Result<Stages> {
    let (height, width) = (case.whole("height")? as usize, case.whole("width")? as usize);
    Ok(one("y", resize(&golden.input(case, "x")?, height, width)?))
}

/// What the net reads of a picture.
pub(super) fn input(golden: &Golden, case: &Case) -> Result<Stages> {
    let picture = picture_in(golden, case, "picture")?.into_rgb8();
    Ok(one("tensor", picture_to_tensor(&picture, case.whole("size")? as u32, golden.device())?))
}

/// A picture's mask, from pixels to pixels.
pub(super) fn mask(golden: &Golden, case: &Case) -> Result<Stages> {
    let (config, weights) = golden.net::<BiRefNetConfig>(case, "net")?;
    let picture = picture_in(golden, case, "picture")?.into_rgb8();
    let mask = BiRefNet::new(&config, &weights)?.segment(&picture, &mut |_| Ok(()))?;
    Ok(one("image", grey(mask)?))
}

/// What is made of logits.
pub(super) fn of_logits(golden: &Golden, case: &Case) -> Result<Stages> {
    let (width, height) = (case.whole("width")? as u32, case.whole("height")? as u32);
    Ok(one("image", grey(mask_of_logits(&golden.input(case, "logits")?, width, height)?)?))
}

/// Colours at soft edges without what shone through.
pub(super) fn foreground(golden: &Golden, case: &Case) -> Result<Stages> {
    let picture = picture_in(golden, case, "picture")?.into_rgb8();
    let alpha = picture_in(golden, case, "alpha")?.into_luma8();
    Ok(one("image", bytes(refine_foreground(&picture, &alpha)?)?))
}

//! `deform_conv.cu` and the product behind it.

use candle_core::{Result, Tensor};

use super::super::case::{Case, one, picture, text};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::birefnet::deform_conv::{deform_conv2d, modulated_deform_conv2d};

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "deform-conv",
        family: "deform_conv",
        dtypes: FLOATS,
        // Columns are rounded before the product.
        bound: Bound::roundings(3).in_f32(2e-5),
        draw: |dice| {
            let (shape, edge) = drawn(dice);
            deformed(shape, edge, deform_conv2d)
        },
        rows: Vec::new,
    },
    Kernel {
        name: "modulated-deform-conv",
        family: "deform_conv",
        dtypes: FLOATS,
        // And the mask's sigmoid.
        bound: Bound::roundings(4).in_f32(2e-5),
        draw: |dice| {
            let (shape, edge) = drawn(dice);
            deformed(shape, edge, modulated_deform_conv2d)
        },
        rows: || {
            let of = |side: usize, edge: usize| {
                Row::birefnet(deformed([1, 64, 256, side, side], edge, modulated_deform_conv2d))
            };
            vec![of(256, 7), of(256, 3), of(256, 1), of(64, 7)]
        },
    },
];

type Formula = fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>;

/// Batch, inputs, outputs, height, width; the kernel's edge.
fn drawn(dice: &mut Dice) -> ([usize; 5], usize) {
    let inputs = if dice.once_in(3) { dice.between(1, 20) } else { dice.packs(8) };
    let (height, width) = dice.sides(20);
    ([dice.batch(), inputs, dice.packs(8), height, width], dice.pick(&[1, 3, 7], 3))
}

fn deformed([batch, inputs, outputs, height, width]: [usize; 5], edge: usize, formula: Formula) -> Case {
    let of = |channels: usize| [batch, channels, height, width];
    let taps = edge * edge;
    let written = batch * outputs * height * width;
    Case::new(
        format!("{} to {outputs}, {edge} x {edge}", text(&of(inputs))),
        [
            picture(of(inputs)),
            // Several pixels away, and beyond the border.
            picture(of(2 * taps)).deviation(1.5),
            picture(of(taps)),
            picture([outputs, inputs, edge, edge]).deviation(((inputs * taps) as f64).powf(-0.5)),
        ],
        move |[x, offset, mask, weight]| one(formula(x, offset, mask, weight)),
    )
    .writes(written)
    .computes(2.0 * written as f64 * (inputs * taps) as f64)
}

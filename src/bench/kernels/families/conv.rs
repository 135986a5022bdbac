//! The shim over cuDNN, `conv.cpp`.

use candle_core::{Result, Tensor};

use super::super::case::{Case, one, picture, random, text};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops::Conv;

/// cuDNN sums f32 in an order of its own, or by Winograd's transform, which loses a digit.
const SUMS: f64 = 1e-4;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "conv",
        family: "conv",
        dtypes: FLOATS,
        // As a linear layer, which a 1 x 1 kernel is.
        bound: Bound::roundings(2).in_f32(SUMS),
        draw: |dice| {
            let edge = dice.pick(&[1, 3, 3, 3, 7], 3);
            let shape = shape(dice);
            conv(shape, edge)
        },
        rows: || {
            vec![
                Row::sdxl(conv([2, 320, 320, 128, 128], 3)),
                Row::sdxl(conv([2, 640, 640, 64, 64], 3)),
                Row::sdxl(conv([2, 1280, 1280, 32, 32], 3)),
                Row::sdxl(conv([2, 2560, 1280, 32, 32], 3)),
                Row::vae(conv([1, 256, 128, 1024, 1024], 3)),
                Row::vae(conv([1, 128, 128, 1024, 1024], 3)),
                Row::vae(conv([1, 256, 256, 512, 512], 3)),
                Row::vae(conv([1, 512, 512, 128, 128], 3)),
                Row::vae(conv([1, 256, 128, 1024, 1024], 1)),
                Row::birefnet(conv([1, 480, 64, 256, 256], 3)),
                // Offsets of the largest deformable convolution.
                Row::birefnet(conv([1, 64, 98, 256, 256], 7)),
            ]
        },
    },
    Kernel {
        name: "conv-halving",
        family: "conv",
        dtypes: FLOATS,
        bound: Bound::roundings(1).in_f32(SUMS),
        draw: |dice| {
            let grown = dice.once_in(2);
            halving(shape(dice), grown)
        },
        rows: || {
            vec![
                Row::sdxl(halving([2, 320, 320, 128, 128], false)),
                Row::vae(halving([1, 128, 128, 1024, 1024], true)),
            ]
        },
    },
];

/// Batch, inputs, outputs, height, width.
fn shape(dice: &mut Dice) -> [usize; 5] {
    let mut channels = || if dice.once_in(3) { dice.between(1, 30) } else { dice.packs(10) };
    let (inputs, outputs) = (channels(), channels());
    let (height, width) = dice.sides(24);
    [dice.batch(), inputs, outputs, height + 4, width + 2]
}

fn sized(
    [batch, inputs, outputs, height, width]: [usize; 5],
    edge: usize,
    made: [usize; 2],
    run: impl Fn(&[Tensor; 3]) -> Result<Vec<Tensor>> + 'static,
) -> Case {
    let [rows, columns] = made;
    let window = inputs * edge * edge;
    let written = batch * outputs * rows * columns;
    Case::new(
        format!("{} to {outputs}, {edge} x {edge}", text(&[batch, inputs, height, width])),
        [
            picture([batch, inputs, height, width]),
            picture([outputs, inputs, edge, edge]).deviation((window as f64).powf(-0.5)),
            random([outputs]),
        ],
        run,
    )
    .writes(written)
    .computes(2.0 * written as f64 * window as f64)
}

/// Of stride 1, as large as before.
fn conv(shape: [usize; 5], edge: usize) -> Case {
    let [_, _, _, height, width] = shape;
    sized(shape, edge, [height, width], move |[x, weight, bias]| {
        one(Conv::from_tensors(weight.clone(), bias.clone(), 1, edge / 2).forward(x))
    })
}

/// Of stride 2; `grown` by a row and a column behind instead of one all round.
fn halving(shape: [usize; 5], grown: bool) -> Case {
    let [_, _, _, height, width] = shape;
    let half = |side: usize| if grown { (side - 2) / 2 + 1 } else { (side - 1) / 2 + 1 };
    sized(shape, 3, [half(height), half(width)], move |[x, weight, bias]| {
        let of = |padding: usize| Conv::from_tensors(weight.clone(), bias.clone(), 2, padding);
        one(if grown { of(0).forward_grown(x) } else { of(1).forward(x) })
    })
}

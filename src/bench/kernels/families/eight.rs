//! e4m3: roundings to it (`quantise.cu`, and the norm of `norm.cu` that leaves in 8 bits), and products in it (`linear.cpp`).

use candle_core::{DType, Error, Result, Tensor};

use super::super::case::{Case, one, random, text};
use super::super::table::{Bound, HALVES, Kernel, Row};
use crate::models::ops::{self, Eight, Linear, Operand};

/// Half a step between e4m3's largest numbers, 416 and 448, which are a row's largest.
const HALF_STEP: f64 = 16.0 / 448.0 * 1.001;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "quantise",
        family: "quantise",
        dtypes: HALVES,
        bound: Bound::EXACT.and(HALF_STEP),
        draw: |dice| quantised([dice.batch(), dice.between(1, 70), 16 * dice.between(1, 200)]),
        rows: || vec![Row::flux(quantised([1, 4608, 15360])), Row::flux(quantised([1, 4608, 3072]))],
    },
    Kernel {
        name: "layer-norm-modulate-e4m3",
        family: "norm",
        dtypes: HALVES,
        bound: Bound::roundings(4).and(HALF_STEP),
        draw: |dice| modulated([dice.batch(), dice.between(1, 70), 16 * dice.between(1, 200)]),
        rows: || vec![Row::flux(modulated([1, 4608, 3072]))],
    },
    Kernel {
        name: "linear-e4m3",
        family: "linear",
        dtypes: HALVES,
        // Both sides have the same numbers in 8 bits; the tensor cores' own sums of them keep 14 bits.
        bound: Bound::roundings(1).and(2e-3),
        draw: |dice| {
            let (inputs, outputs) = (16 * dice.between(1, 60), 16 * dice.between(1, 60));
            multiplied(dice.between(1, 150), inputs, outputs)
        },
        rows: || {
            vec![
                Row::flux(multiplied(4608, 3072, 9216)),
                Row::flux(multiplied(4608, 3072, 12288)),
                Row::flux(multiplied(4608, 15360, 3072)),
            ]
        },
    },
];

/// Bytes of numbers in 8 bits and of a scale a row.
fn bytes([batch, rows, columns]: [usize; 3]) -> usize {
    batch * rows * (columns + 4)
}

fn quantised(x: [usize; 3]) -> Case {
    Case::new(text(&x), [random(x)], |[x]| Eight::new(x).map(|eight| parts(&eight)))
        .moves(bytes(x))
        .read_by(widened)
        .ought_to_be(|[x]| one(Ok(x.clone())))
}

fn modulated(x: [usize; 3]) -> Case {
    let [batch, _, columns] = x;
    Case::new(
        text(&x),
        [random(x).around(1.0), random([batch, columns]), random([batch, columns])],
        |[x, shift, scale]| {
            // Only asked for its kind.
            let eight = Eight::from_parts(shift.clone(), scale.clone(), x.dtype());
            let reader = Linear::eight(eight, None);
            match ops::layer_norm_modulate_for(&reader, x, shift, scale, 1e-6)? {
                Operand::Eight(eight) => Ok(parts(&eight)),
                Operand::Dense(_) => Err(Error::Msg("a layer in 8 bits was given 16".to_owned())),
            }
        },
    )
    .moves(bytes(x))
    .read_by(widened)
    .ought_to_be(|[x, shift, scale]| one(ops::layer_norm_modulate(x, shift, scale, 1e-6)))
}

/// Rows and weights that are in 8 bits already.
fn multiplied(rows: usize, inputs: usize, outputs: usize) -> Case {
    Case::made(
        format!("({rows}, {inputs}) to {outputs}"),
        [
            random([rows, inputs]),
            random([outputs, inputs]).deviation((inputs as f64).powf(-0.5)),
            random([outputs]),
        ],
        |[x, weight, bias]| {
            let layer = Linear::eight(Eight::new(weight)?, Some(bias.clone()));
            let x = Operand::Eight(Eight::new(x)?);
            Ok(Box::new(move || one(layer.forward_operand(&x))))
        },
    )
    // The bias in 16 bits.
    .moves(rows * (inputs + 4) + outputs * (inputs + 4 + 2))
    .writes(rows * outputs)
    .computes(2.0 * rows as f64 * inputs as f64 * outputs as f64)
    .multiplies_in(DType::F8E4M3)
}

fn parts(eight: &Eight) -> Vec<Tensor> {
    let (numbers, scales) = eight.parts();
    vec![numbers.clone(), scales.clone()]
}

fn widened(parts: Vec<Tensor>) -> Result<Vec<Tensor>> {
    match <[Tensor; 2]>::try_from(parts) {
        Ok([numbers, scales]) => one(Eight::from_parts(numbers, scales, DType::F32).widened()),
        Err(parts) => Err(Error::Msg(format!("numbers and scales: found {} tensors", parts.len()))),
    }
}

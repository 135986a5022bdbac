//! int8 weights: widened to the dtype of a product (`widen.cu`), and the product behind that.

use super::super::case::{Case, one, random, text};
use super::super::table::{Bound, FLOATS, HALVES, Kernel, Row};
use crate::models::ops::{Int8, Linear, Operand};

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "widen-int8",
        family: "widen",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| widened([dice.between(1, 90), 16 * dice.between(1, 300)]),
        rows: || {
            vec![
                Row::flux(widened([9216, 3072])),
                Row::flux(widened([12288, 3072])),
                Row::flux(widened([3072, 15360])),
            ]
        },
    },
    Kernel {
        name: "linear-int8",
        family: "linear",
        dtypes: HALVES,
        // The matrix's, and the result's.
        bound: Bound::roundings(2),
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

fn widened([rows, columns]: [usize; 2]) -> Case {
    Case::made(text(&[rows, columns]), [random([rows, columns])], |[weight]| {
        let (int8, dtype) = (Int8::new(weight)?, weight.dtype());
        Ok(Box::new(move || one(int8.widened(dtype))))
    })
    .moves(rows * (columns + 4))
    .writes(rows * columns)
}

fn multiplied(rows: usize, inputs: usize, outputs: usize) -> Case {
    Case::made(
        format!("({rows}, {inputs}) to {outputs}"),
        [
            random([rows, inputs]),
            random([outputs, inputs]).deviation((inputs as f64).powf(-0.5)),
            random([outputs]),
        ],
        |[x, weight, bias]| {
            let layer = Linear::int8(Int8::new(weight)?, Some(bias.clone()));
            let x = Operand::Dense(x.clone());
            Ok(Box::new(move || one(layer.forward_operand(&x))))
        },
    )
    // Input and bias in 16 bits. The widened matrix need not exist, so it does not count.
    .moves(2 * rows * inputs + outputs * (inputs + 4 + 2))
    .writes(rows * outputs)
    .computes(2.0 * rows as f64 * inputs as f64 * outputs as f64)
}

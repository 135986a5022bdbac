//! The shim over cuBLASLt, `linear.cpp`, in 16 bits and f32.

use candle_core::Module;

use super::super::case::{Case, Input, one, random};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops::{self, Linear, Operand};

/// cuBLASLt sums f32 in an order of its own.
const SUMS: f64 = 2e-5;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "linear",
        family: "linear",
        dtypes: FLOATS,
        // Columns that are no packs go through candle, which rounds the product before the bias.
        bound: Bound::roundings(2).in_f32(SUMS),
        draw: |dice| {
            let shape = shape(dice);
            let lie = dice.once_in(2);
            // Tokens of one of two streams, as FLUX reads attention's result.
            linear(shape, if lie { dice.between(1, 9) } else { 0 })
        },
        rows: || {
            vec![
                Row::flux(linear([1, 4608, 3072, 9216], 0)),
                Row::flux(linear([1, 4608, 15360, 3072], 0)),
                // q, k, v and feed forward at once: measured against the two that the nets use.
                Row::flux(linear([1, 4608, 3072, 21504], 0)),
                Row::flux(linear([1, 4096, 3072, 3072], 512)),
                Row::flux(linear([1, 4096, 12288, 3072], 0)),
                Row::flux(linear([1, 512, 3072, 9216], 0)),
                Row::sdxl(linear([2, 4096, 640, 1920], 0)),
                Row::sdxl(linear([2, 4096, 640, 5120], 0)),
                Row::sdxl(linear([2, 1024, 1280, 3840], 0)),
                Row::sdxl(linear([2, 1024, 1280, 10240], 0)),
                Row::sdxl(linear([2, 1024, 5120, 1280], 0)),
                Row::t5(linear([1, 512, 4096, 12288], 0)),
                Row::t5(linear([1, 512, 4096, 20480], 0)),
                Row::t5(linear([1, 512, 10240, 4096], 0)),
                Row::birefnet(linear([1, 65536, 192, 576], 0)),
                Row::birefnet(linear([1, 4096, 768, 2304], 0)),
            ]
        },
    },
    Kernel {
        name: "linear-gelu",
        family: "linear",
        dtypes: FLOATS,
        bound: Bound::roundings(2).in_f32(SUMS),
        draw: |dice| gelu(shape(dice)),
        rows: || vec![Row::flux(gelu([1, 4096, 3072, 12288])), Row::flux(gelu([1, 512, 3072, 12288]))],
    },
    Kernel {
        name: "linear-gelu-into",
        family: "linear",
        dtypes: FLOATS,
        bound: Bound::roundings(2).in_f32(SUMS),
        draw: |dice| beside(shape(dice), dice.packs(4)),
        rows: || vec![Row::flux(beside([1, 4608, 3072, 12288], 3072))],
    },
    Kernel {
        name: "linear-onto",
        family: "linear",
        dtypes: FLOATS,
        bound: Bound::roundings(3).in_f32(SUMS),
        draw: |dice| onto(shape(dice)),
        rows: || {
            vec![
                Row::sdxl(onto([2, 4096, 640, 640])),
                Row::sdxl(onto([2, 4096, 2560, 640])),
                Row::sdxl(onto([2, 1024, 1280, 1280])),
                Row::sdxl(onto([2, 1024, 5120, 1280])),
            ]
        },
    },
];

/// Batch, tokens, inputs, outputs.
fn shape(dice: &mut Dice) -> [usize; 4] {
    [dice.batch(), dice.between(1, 150), dice.columns(), dice.columns()]
}

fn operands([batch, tokens, inputs, outputs]: [usize; 4]) -> [Input; 3] {
    [
        random([batch, tokens, inputs]),
        random([outputs, inputs]).deviation((inputs as f64).powf(-0.5)),
        random([outputs]),
    ]
}

fn sized(case: Case, [batch, tokens, inputs, outputs]: [usize; 4]) -> Case {
    let rows = batch * tokens;
    case.writes(rows * outputs).computes(2.0 * rows as f64 * inputs as f64 * outputs as f64)
}

fn words([batch, tokens, inputs, outputs]: [usize; 4]) -> String {
    format!("({batch}, {tokens}, {inputs}) to {outputs}")
}

/// `before`: other tokens of each picture that lie between those that are read.
fn linear(shape: [usize; 4], before: usize) -> Case {
    let [x, weight, bias] = operands(shape);
    let x = if before > 0 { x.between(1, before, 0) } else { x };
    let case = Case::new(words(shape), [x, weight, bias], |[x, weight, bias]| {
        one(Linear::dense(weight.clone(), Some(bias.clone())).forward(x))
    });
    sized(case, shape)
}

fn gelu(shape: [usize; 4]) -> Case {
    let case = Case::new(words(shape), operands(shape), |[x, weight, bias]| {
        let layer = Linear::dense(weight.clone(), Some(bias.clone()));
        one(layer.forward_gelu(&Operand::Dense(x.clone())))
    });
    sized(case, shape)
}

/// Added to a residual.
fn onto(shape: [usize; 4]) -> Case {
    let [batch, tokens, _, outputs] = shape;
    let [x, weight, bias] = operands(shape);
    let residual = random([batch, tokens, outputs]);
    let case = Case::new(words(shape), [x, weight, bias, residual], |[x, weight, bias, residual]| {
        one(Linear::dense(weight.clone(), Some(bias.clone())).forward_onto(x, residual))
    });
    sized(case, shape)
}

/// Written behind `before` other columns.
fn beside(shape: [usize; 4], before: usize) -> Case {
    let [batch, tokens, _, outputs] = shape;
    let case =
        Case::new(format!("{} behind {before}", words(shape)), operands(shape), move |[x, weight, bias]| {
            let layer = Linear::dense(weight.clone(), Some(bias.clone()));
            let all = (batch, tokens, before + outputs);
            let buffer = ops::buffer(all, x)?;
            layer.forward_gelu_into(&Operand::Dense(x.clone()), &buffer, 2, before)?;
            one(buffer.narrow(2, before, outputs))
        });
    sized(case, shape)
}

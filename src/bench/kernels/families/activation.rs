//! `activation.cu`, and the gate of `pixelwise.cu` that works on rows.

use candle_core::{Result, Tensor};

use super::super::case::{Case, count, one, random, text};
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "gelu-tanh",
        family: "activation",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let x = [dice.batch(), dice.between(1, 70), dice.columns()];
            let lying = dice.lie(random(x));
            Case::new(text(&x), [lying], |[x]| one(ops::gelu_tanh(x))).writes(count(&x))
        },
        rows: || vec![Row::flux(each([1, 4608, 12288], ops::gelu_tanh))],
    },
    Kernel {
        name: "gelu-erf",
        family: "activation",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| each([dice.batch(), dice.between(1, 70), dice.columns()], ops::gelu_erf),
        rows: || vec![Row::birefnet(each([1, 65536, 768], ops::gelu_erf))],
    },
    Kernel {
        name: "silu",
        family: "activation",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| each([dice.batch(), dice.between(1, 70), dice.columns()], ops::silu),
        // The first map of the ControlNet's picture.
        rows: || vec![Row::sdxl(each([1, 1024 * 1024, 16], ops::silu))],
    },
    Kernel {
        name: "quick-gelu",
        family: "activation",
        dtypes: FLOATS,
        bound: Bound::roundings(3),
        draw: |dice| each([dice.batch(), dice.between(1, 70), dice.columns()], ops::quick_gelu),
        rows: || vec![Row::clip(each([1, 77, 3072], ops::quick_gelu))],
    },
    Kernel {
        name: "gelu-tanh-gate",
        family: "activation",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| gated([dice.batch(), dice.between(1, 70)], dice.columns(), ops::gelu_tanh_gate),
        rows: || vec![Row::t5(gated([1, 512], 10240, ops::gelu_tanh_gate))],
    },
    Kernel {
        name: "geglu",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| gated([dice.batch(), dice.between(1, 70)], dice.columns(), ops::geglu),
        rows: || {
            vec![Row::sdxl(gated([2, 4096], 2560, ops::geglu)), Row::sdxl(gated([2, 1024], 5120, ops::geglu))]
        },
    },
];

fn each(x: [usize; 3], formula: fn(&Tensor) -> Result<Tensor>) -> Case {
    Case::new(text(&x), [random(x)], move |[x]| one(formula(x))).writes(count(&x))
}

/// Rows of twice `columns`, of which one half weighs the other.
fn gated([batch, tokens]: [usize; 2], columns: usize, formula: fn(&Tensor) -> Result<Tensor>) -> Case {
    let x = [batch, tokens, 2 * columns];
    Case::new(text(&x), [random(x)], move |[x]| one(formula(x))).writes(batch * tokens * columns)
}

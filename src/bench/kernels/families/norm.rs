//! `norm.cu`: norms of rows, residuals, both in one.

use super::super::case::{Case, count, one, random, text, two};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops::{self, Norm};

/// FLUX's; the others' differ by a factor of ten.
const EPS: f64 = 1e-6;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "layer-norm-plain",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let x = tokens(dice);
            let lying = dice.lie(random(x).around(1.0));
            Case::new(text(&x), [lying], |[x]| one(ops::layer_norm(x, None, EPS))).writes(count(&x))
        },
        rows: Vec::new,
    },
    Kernel {
        name: "layer-norm-affine",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| affine(tokens(dice)),
        rows: || {
            vec![
                Row::sdxl(affine([2, 4096, 640])),
                Row::sdxl(affine([2, 1024, 1280])),
                Row::birefnet(affine([1, 65536, 192])),
                Row::birefnet(affine([1, 4096, 768])),
                Row::clip(affine([1, 77, 768])),
            ]
        },
    },
    Kernel {
        name: "layer-norm-modulate",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(4),
        draw: |dice| modulate(tokens(dice)),
        rows: || vec![Row::flux(modulate([1, 4608, 3072])), Row::flux(modulate([1, 4096, 3072]))],
    },
    Kernel {
        name: "rms-norm",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let x = tokens(dice);
            let (lying, [_, _, columns]) = (dice.lie(random(x).around(1.0)), x);
            Case::new(text(&x), [lying, random([columns]).around(1.0)], |[x, weight]| {
                one(ops::rms_norm(x, weight, EPS))
            })
            .writes(count(&x))
        },
        rows: Vec::new,
    },
    Kernel {
        name: "t5-norm",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| t5(tokens(dice)),
        rows: || vec![Row::t5(t5([1, 512, 4096]))],
    },
    Kernel {
        name: "gated-residual",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| gated_residual(tokens(dice)),
        rows: || vec![Row::flux(gated_residual([1, 4608, 3072])), Row::flux(gated_residual([1, 4096, 3072]))],
    },
    Kernel {
        name: "residual-norm-modulate",
        family: "norm",
        dtypes: FLOATS,
        // Two of the sum, which the norm then stretches, and four of the norm.
        bound: Bound::roundings(7),
        draw: |dice| residual_modulate(tokens(dice)),
        rows: || vec![Row::flux(residual_modulate([1, 4096, 3072]))],
    },
    Kernel {
        name: "residual-norm-affine",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(3),
        draw: |dice| residual_affine(tokens(dice)),
        rows: || {
            vec![
                Row::sdxl(residual_affine([2, 4096, 640])),
                Row::sdxl(residual_affine([2, 1024, 1280])),
                Row::birefnet(residual_affine([1, 65536, 192])),
            ]
        },
    },
    Kernel {
        name: "residual-t5-norm",
        family: "norm",
        dtypes: FLOATS,
        bound: Bound::roundings(4),
        draw: |dice| residual_t5(tokens(dice)),
        rows: || vec![Row::t5(residual_t5([1, 512, 4096]))],
    },
];

fn tokens(dice: &mut Dice) -> [usize; 3] {
    [dice.batch(), dice.between(1, 40), dice.columns()]
}

fn affine(x: [usize; 3]) -> Case {
    let [_, _, columns] = x;
    Case::new(
        text(&x),
        [random(x).around(1.0), random([columns]).around(1.0), random([columns])],
        |[x, weight, bias]| one(ops::layer_norm(x, Some((weight, bias)), EPS)),
    )
    .writes(count(&x))
}

fn modulate(x: [usize; 3]) -> Case {
    let [batch, _, columns] = x;
    Case::new(
        text(&x),
        [random(x).around(1.0), random([batch, columns]), random([batch, columns])],
        |[x, shift, scale]| one(ops::layer_norm_modulate(x, shift, scale, EPS)),
    )
    .writes(count(&x))
}

fn t5(x: [usize; 3]) -> Case {
    let [_, _, columns] = x;
    Case::new(text(&x), [random(x), random([columns]).around(1.0)], |[x, weight]| {
        one(ops::t5_norm(x, weight, EPS))
    })
    .writes(count(&x))
}

fn gated_residual(x: [usize; 3]) -> Case {
    let [batch, _, columns] = x;
    Case::new(text(&x), [random(x), random([batch, columns]), random(x)], |[x, gate, y]| {
        one(ops::gated_residual(x, gate, y))
    })
    .writes(count(&x))
}

fn residual_modulate(x: [usize; 3]) -> Case {
    let [batch, _, columns] = x;
    let row = || random([batch, columns]);
    Case::new(
        text(&x),
        [random(x), row().deviation(0.5), random(x), row(), row().deviation(0.3)],
        |[x, gate, y, shift, scale]| {
            two(ops::residual_norm(x, Some(gate), y, Norm::Modulate { shift, scale }, EPS))
        },
    )
    .writes(2 * count(&x))
}

fn residual_affine(x: [usize; 3]) -> Case {
    let [_, _, columns] = x;
    Case::new(
        text(&x),
        [random(x), random(x), random([columns]).around(1.0), random([columns])],
        |[x, y, weight, bias]| two(ops::residual_norm(x, None, y, Norm::Layer { weight, bias }, EPS)),
    )
    .writes(2 * count(&x))
}

fn residual_t5(x: [usize; 3]) -> Case {
    let [_, _, columns] = x;
    Case::new(text(&x), [random(x), random(x), random([columns]).around(1.0)], |[x, y, weight]| {
        two(ops::residual_norm(x, None, y, Norm::T5(weight), EPS))
    })
    .writes(2 * count(&x))
}

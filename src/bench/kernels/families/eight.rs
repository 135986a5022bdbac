//! e4m3: roundings to it (`quantise.cu`, what leaves `norm.cu` and `rope.cu` in 8 bits), and products in it (`linear.cpp`,
//! `attention_eight.cpp`).

use candle_core::{DType, Error, Result, Tensor};

use super::super::case::{Case, one, random, text};
use super::super::table::{Bound, HALVES, Kernel, Row};
use crate::models::ops::{self, Eight, Linear, Operand, QkNorm, RopeTable};

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
        name: "quantise-beside",
        family: "quantise",
        dtypes: HALVES,
        // What stands before is rounded for the second time; the first is in the twin too.
        bound: Bound::EXACT.and(HALF_STEP),
        draw: |dice| {
            let rows = [dice.batch(), dice.between(1, 70)];
            beside(rows, 16 * dice.between(1, 60), 16 * dice.between(1, 200))
        },
        rows: || vec![Row::flux(beside([1, 4608], 3072, 12288))],
    },
    Kernel {
        name: "rms-norm-rope-e4m3",
        family: "rope",
        dtypes: HALVES,
        // Without a scale the largest may lie just above a power of two, where half a step is a sixteenth.
        bound: Bound::roundings(4).and(1.0 / 16.0),
        draw: |dice| {
            let tokens = dice.between(2, 60);
            let words = dice.between(0, tokens);
            turned(dice.batch(), tokens, words, dice.between(1, 9), dice.pick(&[32, 64, 128], 128))
        },
        rows: || vec![Row::flux(turned(1, 4608, 0, 24, 128))],
    },
    Kernel {
        name: "attention-e4m3",
        family: "attention_eight",
        dtypes: HALVES,
        // Shares of the softmax are rounded to three bits before they meet v, with few keys all the same way, and the result
        // is: a step between neighbours is an eighth.
        bound: Bound::EXACT.and(0.15),
        draw: |dice| attended([dice.between(1, 2), dice.between(1, 4), dice.between(100, 700), 128]),
        rows: || vec![Row::flux(attended([1, 24, 4608, 128]))],
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

/// Codes without a scale in front of numbers.
fn beside([batch, rows]: [usize; 2], codes: usize, columns: usize) -> Case {
    let all = codes + columns;
    Case::made(
        format!("({batch}, {rows}, {codes} + {columns})"),
        [random([batch, rows, codes]).deviation(3.0), random([batch, rows, columns])],
        |[before, x]| {
            let (before, x) = (ops::unscaled_eight(before)?, x.clone());
            Ok(Box::new(move || Eight::beside(&before, &x).map(|eight| parts(&eight))))
        },
    )
    .moves(batch * rows * (codes + 2 * columns) + bytes([batch, rows, all]))
    .read_by(widened)
    .ought_to_be(|[before, x]| {
        let before = Eight::unscaled(ops::unscaled_eight(before)?, DType::F32)?.widened()?;
        one(Tensor::cat(&[&before, x], 2))
    })
}

/// q, k and v, the first two normed and rotated, as attention reads them.
fn turned(batch: usize, tokens: usize, words: usize, heads: usize, dim: usize) -> Case {
    let qkv = [batch, tokens, 3 * heads * dim];
    let weight = || random([dim]).around(1.0).deviation(0.2);
    let angle = || random([tokens, dim / 2]).deviation(0.6).wide();
    let norms = |[q_words, k_words, q_rest, k_rest]: [&Tensor; 4]| {
        let norm = |q: &Tensor, k: &Tensor| QkNorm { q: q.clone(), k: k.clone() };
        [norm(q_words, k_words), norm(q_rest, k_rest)]
    };
    Case::new(
        format!("{}, {heads} heads, {words} words", text(&qkv)),
        [random(qkv), weight(), weight(), weight(), weight(), angle(), angle()],
        move |[qkv, a, b, c, d, cos, sin]| {
            let [first, second] = norms([a, b, c, d]);
            let table = RopeTable::from_tensors(cos.clone(), sin.clone());
            one(ops::rms_norm_rope_eight(qkv, heads, words, [&first, &second], 1e-6, &table))
        },
    )
    .moves(qkv.iter().product())
    .read_by(as_they_are)
    .ought_to_be(move |[qkv, a, b, c, d, cos, sin]| {
        let [first, second] = norms([a, b, c, d]);
        let (qkv, table) = (qkv.copy()?, RopeTable::from_tensors(cos.clone(), sin.clone()));
        ops::rms_norm_rope(&qkv, heads, words, [&first, &second], 1e-6, &table)?;
        one(Ok(qkv))
    })
}

/// Over numbers that are in 8 bits already.
fn attended([batch, heads, tokens, dim]: [usize; 4]) -> Case {
    let (inner, count) = (heads * dim, batch * heads * tokens * dim);
    Case::made(
        format!("({batch}, {heads}, {tokens}, {dim})"),
        [random([batch, tokens, 3 * inner])],
        move |[qkv]| {
            let eight = ops::unscaled_eight(qkv)?;
            Ok(Box::new(move || one(ops::attention_eight(&eight, heads))))
        },
    )
    .moves(4 * count)
    .computes(4.0 * count as f64 * tokens as f64)
    .multiplies_in(DType::F8E4M3)
    .read_by(as_they_are)
}

/// Numbers without scales.
fn as_they_are(codes: Vec<Tensor>) -> Result<Vec<Tensor>> {
    codes.into_iter().map(|codes| Eight::unscaled(codes, DType::F32)?.widened()).collect()
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

//! Attention: cuDNN's for long sequences, `attention.cu` for up to 512 keys, and the one wide head of autoencoders, whose
//! scores go through `softmax.cu`.

use super::super::case::{Case, count, one, random, text};
use super::super::dice::Dice;
use super::super::table::{Bound, HALVES, Kernel, Row};
use crate::models::ops;

/// Weights of the softmax are rounded before they meet v; one rounding at the end, one for luck with few keys.
const BOUND: Bound = Bound::roundings(3);

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "attention",
        family: "attention_cudnn",
        dtypes: HALVES,
        bound: BOUND,
        draw: |dice| {
            let (batch, heads) = (dice.between(1, 2), dice.between(1, 4));
            let further = dice.between(0, 2);
            fused([batch, heads, dice.between(513, 900), head(dice)], further)
        },
        rows: || {
            vec![
                Row::flux(fused([1, 24, 4608, 128], 0)),
                // Beside the feed forward's 12288 columns.
                Row::flux(fused([1, 24, 4608, 128], 96)),
                Row::sdxl(fused([2, 10, 4096, 64], 0)),
                Row::sdxl(fused([2, 20, 1024, 64], 0)),
            ]
        },
    },
    Kernel {
        name: "attention-short",
        family: "attention",
        dtypes: HALVES,
        bound: BOUND,
        draw: |dice| {
            let (batch, heads) = (dice.batch(), dice.between(1, 5));
            cross([batch, heads, dice.between(1, 300), head(dice)], dice.between(1, 200))
        },
        rows: || vec![Row::sdxl(cross([2, 10, 4096, 64], 77)), Row::sdxl(cross([2, 20, 1024, 64], 77))],
    },
    Kernel {
        name: "attention-bias",
        family: "attention",
        dtypes: HALVES,
        bound: BOUND,
        draw: |dice| {
            let (batch, heads) = (dice.batch(), dice.between(1, 5));
            biased([batch, heads, dice.between(1, 300), head(dice)])
        },
        rows: || vec![Row::t5(biased([1, 64, 512, 64]))],
    },
    Kernel {
        name: "attention-causal",
        family: "attention",
        dtypes: HALVES,
        bound: BOUND,
        draw: |dice| {
            let (batch, heads) = (dice.batch(), dice.between(1, 5));
            causal([batch, heads, dice.between(1, 300), head(dice)])
        },
        rows: || vec![Row::clip(causal([1, 12, 77, 64])), Row::sdxl(causal([1, 20, 77, 64]))],
    },
    Kernel {
        name: "attention-wide",
        family: "softmax",
        dtypes: HALVES,
        bound: BOUND,
        draw: |dice| wide([dice.batch(), dice.between(1, 200), dice.packs(40), 8 * dice.between(20, 70)]),
        rows: || vec![Row::vae(wide([1, 16384, 16384, 512]))],
    },
];

fn head(dice: &mut Dice) -> usize {
    dice.pick(&[8, 40, 64, 64, 72, 128, 128], 64)
}

/// Two products of every query with every key.
fn flops([batch, heads, queries, dim]: [usize; 4], keys: usize) -> f64 {
    4.0 * (batch * heads * queries) as f64 * (keys * dim) as f64
}

/// Self-attention out of one projection, written into the first heads of a tensor that has `further` more.
fn fused(shape: [usize; 4], further: usize) -> Case {
    let [batch, heads, tokens, dim] = shape;
    let beside = if further > 0 { format!(" beside {} columns", further * dim) } else { String::new() };
    let qkv = random([batch, tokens, 3 * heads, dim]);
    Case::new(format!("{}{beside}", text(&shape)), [qkv], move |[qkv]| {
        let part = |index: usize| qkv.narrow(2, index * heads, heads);
        let out = ops::buffer((batch, tokens, heads + further, dim), qkv)?;
        ops::attention_into(&part(0)?, &part(1)?, &part(2)?, scale(dim), &out, 0)?;
        one(out.narrow(2, 0, heads))
    })
    .writes(count(&shape))
    .computes(flops(shape, tokens))
}

/// Queries of one tensor, keys and values side by side in another.
fn cross(shape: [usize; 4], keys: usize) -> Case {
    let [batch, heads, queries, dim] = shape;
    Case::new(
        format!("{} and {keys} keys", text(&shape)),
        [random([batch, queries, heads, dim]), random([batch, keys, 2 * heads, dim])],
        move |[q, kv]| {
            let (k, v) = (kv.narrow(2, 0, heads)?, kv.narrow(2, heads, heads)?);
            one(ops::attention(q, &k, &v, scale(dim), None))
        },
    )
    .writes(count(&shape))
    .computes(flops(shape, keys))
}

/// With a bias for all batches, out of one projection.
fn biased(shape: [usize; 4]) -> Case {
    let [batch, heads, tokens, dim] = shape;
    Case::new(
        text(&shape),
        [random([batch, tokens, 3 * heads, dim]), random([1, heads, tokens, tokens])],
        move |[qkv, bias]| {
            let part = |index: usize| qkv.narrow(2, index * heads, heads);
            one(ops::attention(&part(0)?, &part(1)?, &part(2)?, scale(dim), Some(bias)))
        },
    )
    .writes(count(&shape))
    .computes(flops(shape, tokens))
}

/// Half of the scores are not seen, and not counted.
fn causal(shape: [usize; 4]) -> Case {
    let [batch, heads, tokens, dim] = shape;
    Case::new(text(&shape), [random([batch, tokens, 3 * heads, dim])], move |[qkv]| {
        let part = |index: usize| qkv.narrow(2, index * heads, heads);
        one(ops::causal_attention(&part(0)?, &part(1)?, &part(2)?, scale(dim)))
    })
    .writes(count(&shape))
    .computes(flops(shape, tokens) / 2.0)
}

/// Batch, queries, keys, channels of the one head.
fn wide([batch, queries, keys, channels]: [usize; 4]) -> Case {
    let of = |tokens: usize| random([batch, tokens, channels]);
    Case::new(
        format!("{} and {keys} keys", text(&[batch, 1, queries, channels])),
        [of(queries), of(keys), of(keys)],
        move |[q, k, v]| one(ops::wide_attention(q, k, v, scale(channels))),
    )
    .writes(batch * queries * channels)
    .computes(flops([batch, 1, queries, channels], keys))
}

fn scale(dim: usize) -> f64 {
    (dim as f64).powf(-0.5)
}

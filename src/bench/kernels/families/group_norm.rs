//! `group_norm.cu`: norms of pictures, and the mean that shares their sums.

use candle_core::{Result, Tensor};

use super::super::case::{Case, count, one, picture, random, text};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops;

/// SDXL's and the autoencoders'.
const GROUPS: usize = 32;
const EPS: f64 = 1e-5;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "group-norm",
        family: "group_norm",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let (x, groups) = sized(dice);
            norm(x, groups, ops::group_norm)
        },
        rows: || {
            vec![
                Row::sdxl(norm([2, 640, 64, 64], GROUPS, ops::group_norm)),
                Row::sdxl(norm([2, 1280, 32, 32], GROUPS, ops::group_norm)),
                Row::vae(norm([1, 512, 128, 128], GROUPS, ops::group_norm)),
            ]
        },
    },
    Kernel {
        name: "group-norm-silu",
        family: "group_norm",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| {
            let (x, groups) = sized(dice);
            norm(x, groups, ops::group_norm_silu)
        },
        rows: || {
            vec![
                Row::sdxl(norm([2, 320, 128, 128], GROUPS, ops::group_norm_silu)),
                Row::sdxl(norm([2, 640, 64, 64], GROUPS, ops::group_norm_silu)),
                Row::sdxl(norm([2, 1280, 32, 32], GROUPS, ops::group_norm_silu)),
                Row::sdxl(norm([2, 2560, 32, 32], GROUPS, ops::group_norm_silu)),
                Row::vae(norm([1, 512, 128, 128], GROUPS, ops::group_norm_silu)),
                Row::vae(norm([1, 512, 256, 256], GROUPS, ops::group_norm_silu)),
                Row::vae(norm([1, 256, 1024, 1024], GROUPS, ops::group_norm_silu)),
                Row::vae(norm([1, 128, 1024, 1024], GROUPS, ops::group_norm_silu)),
            ]
        },
    },
    Kernel {
        name: "shifted-group-norm-silu",
        family: "group_norm",
        dtypes: FLOATS,
        bound: Bound::roundings(3),
        draw: |dice| {
            let (x, groups) = sized(dice);
            shifted(x, groups)
        },
        rows: || {
            vec![
                Row::sdxl(shifted([2, 320, 128, 128], GROUPS)),
                Row::sdxl(shifted([2, 640, 64, 64], GROUPS)),
                Row::sdxl(shifted([2, 1280, 32, 32], GROUPS)),
            ]
        },
    },
    Kernel {
        name: "pixel-mean",
        family: "group_norm",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let (height, width) = dice.sides(40);
            mean([dice.batch(), channels(dice), height, width])
        },
        rows: || vec![Row::birefnet(mean([1, 64, 256, 256])), Row::birefnet(mean([1, 64, 32, 32]))],
    },
];

type Norm = fn(&Tensor, &Tensor, &Tensor, usize, f64) -> Result<Tensor>;

fn channels(dice: &mut Dice) -> usize {
    if dice.once_in(3) { dice.between(1, 90) } else { dice.packs(60) }
}

/// A picture and groups that divide its channels.
fn sized(dice: &mut Dice) -> ([usize; 4], usize) {
    let groups = dice.between(1, 32);
    let each = dice.between(1, 24);
    // A group has 18 numbers at least: the variance of fewer may come near 0, which the norm then stretches.
    let (height, width) = dice.sides(20);
    ([dice.batch(), groups * each, height + 5, width], groups)
}

fn norm(x: [usize; 4], groups: usize, formula: Norm) -> Case {
    let [_, channels, _, _] = x;
    Case::new(
        format!("{} in {groups}", text(&x)),
        [picture(x).around(0.5), random([channels]).around(1.0), random([channels])],
        move |[x, weight, bias]| one(formula(x, weight, bias, groups, EPS)),
    )
    .writes(count(&x))
}

fn shifted(x: [usize; 4], groups: usize) -> Case {
    let [batch, channels, _, _] = x;
    Case::new(
        format!("{} in {groups}", text(&x)),
        [
            picture(x),
            random([batch, channels]).deviation(0.5),
            random([channels]).around(1.0),
            random([channels]),
        ],
        move |[x, shift, weight, bias]| {
            one(ops::shifted_group_norm_silu(x, shift, weight, bias, groups, EPS))
        },
    )
    .writes(count(&x))
}

fn mean(x: [usize; 4]) -> Case {
    let [batch, channels, _, _] = x;
    Case::new(text(&x), [picture(x).around(1.0)], |[x]| one(ops::pixel_mean(x))).writes(batch * channels)
}

//! `window_attention.cu`.

use super::super::case::{Case, one, random, text};
use super::super::table::{Bound, HALVES, Kernel, Row};
use crate::models::birefnet::{Windows, window_attention};

/// Channels of a head that the kernel is made for.
const HEAD: usize = 32;

pub(in super::super) const KERNELS: &[Kernel] = &[Kernel {
    name: "window-attention",
    family: "window_attention",
    dtypes: HALVES,
    // As attention has.
    bound: Bound::roundings(3),
    draw: |dice| {
        let edge = dice.pick(&[7, 12, 12], 12);
        let shift = if dice.once_in(3) { 0 } else { edge / 2 };
        let (height, width) = dice.sides(40);
        windows([dice.between(1, 2), height, width], Windows { edge, shift, heads: dice.between(1, 6) })
    },
    rows: || {
        let of = |side: usize, heads: usize, shift: usize| {
            Row::birefnet(windows([1, side, side], Windows { edge: 12, shift, heads }))
        };
        vec![of(256, 6, 0), of(256, 6, 6), of(128, 12, 6), of(64, 24, 6), of(32, 48, 6)]
    },
}];

fn windows([batch, height, width]: [usize; 3], cut: Windows) -> Case {
    let Windows { edge, shift, heads } = cut;
    let channels = heads * HEAD;
    let distances = (2 * edge - 1) * (2 * edge - 1);
    let map = [batch, height, width, 3 * channels];
    let whole = |side: usize| side.div_ceil(edge) * edge;
    let queries = batch * whole(height) * whole(width);
    Case::new(
        format!("{}, windows of {edge} moved by {shift}", text(&map)),
        [random(map), random([3 * channels]), random([distances, heads])],
        move |[qkv, bias, table]| one(window_attention(qkv, Some(bias), table, cut)),
    )
    .writes(batch * height * width * channels)
    .computes(4.0 * queries as f64 * (edge * edge * channels) as f64)
}

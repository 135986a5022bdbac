//! `rope.cu`: norm and rotation of q and k where they lie.

use super::super::case::{Case, random, text};
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops::{self, QkNorm, RopeTable};

pub(in super::super) const KERNELS: &[Kernel] = &[Kernel {
    name: "rms-norm-rope",
    family: "rope",
    dtypes: FLOATS,
    // The rotation adds two rounded numbers.
    bound: Bound::roundings(4),
    draw: |dice| {
        let tokens = dice.between(2, 60);
        let words = dice.between(0, tokens);
        turned(dice.batch(), tokens, words, dice.between(1, 9), dice.pick(&[32, 64, 128, 48], 128))
    },
    rows: || {
        vec![
            // A single block has one norm for all tokens.
            Row::flux(turned(1, 4608, 512, 24, 128)),
            Row::flux(turned(1, 4608, 0, 24, 128)),
        ]
    },
}];

fn turned(batch: usize, tokens: usize, words: usize, heads: usize, dim: usize) -> Case {
    let qkv = [batch, tokens, 3 * heads * dim];
    let weight = || random([dim]).around(1.0).deviation(0.2);
    let angle = || random([tokens, dim / 2]).deviation(0.6).wide();
    // v stays as it is.
    let changed = 2 * batch * tokens * heads * dim;
    Case::new(
        format!("{}, {heads} heads, {words} words", text(&qkv)),
        [random(qkv).touched(changed), weight(), weight(), weight(), weight(), angle(), angle()],
        move |[qkv, q_words, k_words, q_rest, k_rest, cos, sin]| {
            let of_words = QkNorm { q: q_words.clone(), k: k_words.clone() };
            let of_rest = QkNorm { q: q_rest.clone(), k: k_rest.clone() };
            let table = RopeTable::from_tensors(cos.clone(), sin.clone());
            ops::rms_norm_rope(qkv, heads, words, [&of_words, &of_rest], 1e-6, &table)?;
            Ok(vec![qkv.clone()])
        },
    )
    .writes(changed)
}

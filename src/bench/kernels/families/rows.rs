//! `copy.cu` and `bias.cu`: rows that move.

use super::super::case::{Case, count, one, random, text};
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::ops;

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "join-tokens",
        family: "copy",
        dtypes: FLOATS,
        bound: Bound::EXACT,
        draw: |dice| {
            let (batch, columns) = (dice.batch(), dice.columns());
            join(batch, [dice.between(1, 30), dice.between(1, 90)], columns)
        },
        rows: || vec![Row::flux(join(1, [512, 4096], 3072))],
    },
    Kernel {
        name: "embed",
        family: "copy",
        dtypes: FLOATS,
        bound: Bound::EXACT,
        draw: |dice| {
            let vocabulary = dice.between(1, 500);
            let sentence = dice.between(1, 80);
            let ids = (0..dice.batch())
                .map(|_| (0..sentence).map(|_| dice.between(0, vocabulary - 1) as u32).collect())
                .collect();
            embed(vocabulary, dice.columns(), ids)
        },
        rows: || {
            // Multiples of a prime reach the table's whole length.
            let ids = (0..512).map(|word| word * 7919 % 32128).collect();
            vec![Row::t5(embed(32128, 4096, vec![ids]))]
        },
    },
    Kernel {
        name: "relative-bias",
        family: "bias",
        dtypes: FLOATS,
        bound: Bound::EXACT,
        draw: |dice| bias(dice.between(1, 70), dice.between(1, 40), dice.between(1, 150)),
        rows: || vec![Row::t5(bias(64, 32, 512))],
    },
];

fn join(batch: usize, [first, second]: [usize; 2], columns: usize) -> Case {
    let all = [batch, first + second, columns];
    Case::new(
        format!("{first} + {second} in {}", text(&all)),
        [random([batch, first, columns]), random([batch, second, columns])],
        |[first, second]| one(ops::join_tokens(first, second)),
    )
    .writes(count(&all))
}

fn embed(vocabulary: usize, columns: usize, ids: Vec<Vec<u32>>) -> Case {
    let asked = ids.iter().map(Vec::len).sum::<usize>();
    Case::new(
        format!("{asked} of {}", text(&[vocabulary, columns])),
        [random([vocabulary, columns]).touched(asked * columns)],
        move |[table]| one(ops::embed(table, &ids)),
    )
    .writes(asked * columns)
    // The ids.
    .moves(4 * asked)
}

fn bias(heads: usize, buckets: usize, length: usize) -> Case {
    let all = [1, heads, length, length];
    Case::new(text(&all), [random([buckets, heads])], move |[table]| {
        // T5's own are logarithmic; here neighbours differ.
        one(ops::relative_bias(table, length, |distance| (distance.unsigned_abs() % buckets as u64) as u32))
    })
    .writes(count(&all))
    // A bucket for each distance.
    .moves(4 * (2 * length - 1))
}

//! `resample.cu` and `pixelwise.cu`: pictures resized, joined and weighted.

use candle_core::{Result, Tensor};

use super::super::case::{Case, count, one, picture, random, text};
use super::super::dice::Dice;
use super::super::table::{Bound, FLOATS, Kernel, Row};
use crate::models::birefnet::conv::BatchNorm;
use crate::models::birefnet::resize::resize;
use crate::models::ops::{self, Aside};

pub(in super::super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "upsample-nearest",
        family: "resample",
        dtypes: FLOATS,
        bound: Bound::EXACT,
        // Nets double; other powers of two are as exact in every precision that a ratio is computed in.
        draw: |dice| {
            let x = drawn(dice);
            nearest(x, dice.pick(&[1, 2, 4], 2), dice.pick(&[1, 2, 2, 8], 2))
        },
        rows: || {
            vec![
                Row::sdxl(nearest([2, 1280, 32, 32], 2, 2)),
                Row::sdxl(nearest([2, 640, 64, 64], 2, 2)),
                Row::vae(nearest([1, 512, 128, 128], 2, 2)),
                Row::vae(nearest([1, 256, 512, 512], 2, 2)),
            ]
        },
    },
    Kernel {
        name: "resize-bilinear",
        family: "resample",
        dtypes: FLOATS,
        // A position's last bits are a neighbour's weight.
        bound: Bound::roundings(1).in_f32(1e-4),
        draw: |dice| {
            let (x, (height, width)) = (drawn(dice), dice.sides(60));
            bilinear(x, height, width)
        },
        rows: || {
            vec![
                Row::birefnet(bilinear([1, 384, 128, 128], 256, 256)),
                Row::birefnet(bilinear([1, 768, 64, 64], 128, 128)),
            ]
        },
    },
    Kernel {
        name: "cat-channels",
        family: "resample",
        dtypes: FLOATS,
        bound: Bound::EXACT,
        draw: |dice| {
            let [batch, channels, height, width] = drawn(dice);
            let other = if dice.once_in(2) { dice.between(1, 60) } else { dice.packs(10) };
            cat(batch, [channels, other], [height, width])
        },
        rows: || {
            vec![
                Row::sdxl(cat(2, [1280, 640], [64, 64])),
                Row::sdxl(cat(2, [320, 320], [128, 128])),
                Row::birefnet(cat(1, [384, 96], [256, 256])),
            ]
        },
    },
    Kernel {
        name: "sum-beside",
        family: "pixelwise",
        dtypes: FLOATS,
        // Doubled again and again: anything that one stream reads too early, or writes where the other still reads, shows.
        bound: Bound::EXACT,
        draw: |dice| twice(drawn(dice)),
        rows: || vec![Row::sdxl(twice([2, 640, 64, 64]))],
    },
    Kernel {
        name: "batch-norm",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| normalised(drawn(dice), BatchNorm::forward),
        rows: || vec![Row::birefnet(normalised([1, 384, 128, 128], BatchNorm::forward))],
    },
    Kernel {
        name: "batch-norm-relu",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| normalised(drawn(dice), BatchNorm::relu),
        rows: || {
            vec![
                Row::birefnet(normalised([1, 256, 256, 256], BatchNorm::relu)),
                Row::birefnet(normalised([1, 64, 256, 256], BatchNorm::relu)),
            ]
        },
    },
    Kernel {
        name: "gate",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| gated(drawn(dice)),
        rows: || vec![Row::birefnet(gated([1, 384, 128, 128]))],
    },
    Kernel {
        name: "scaled",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| scaled(drawn(dice)),
        rows: || vec![Row::sdxl(scaled([2, 320, 128, 128])), Row::sdxl(scaled([2, 1280, 32, 32]))],
    },
    Kernel {
        name: "picture-sum",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(1),
        draw: |dice| {
            let one_for_all = dice.once_in(3);
            sum(drawn(dice), one_for_all, ops::add)
        },
        rows: || {
            vec![
                Row::sdxl(sum([2, 320, 128, 128], false, ops::add)),
                Row::sdxl(sum([2, 320, 128, 128], true, ops::add)),
                Row::sdxl(sum([2, 640, 64, 64], false, ops::add)),
                Row::sdxl(sum([2, 1280, 32, 32], false, ops::add)),
                Row::vae(sum([1, 128, 1024, 1024], false, ops::add)),
            ]
        },
    },
    Kernel {
        name: "scaled-sum",
        family: "pixelwise",
        dtypes: FLOATS,
        bound: Bound::roundings(2),
        draw: |dice| {
            let one_for_all = dice.once_in(3);
            sum(drawn(dice), one_for_all, |a, b| ops::add_scaled(a, b, 0.7))
        },
        rows: || {
            let row = |x| Row::sdxl(sum(x, false, |a, b| ops::add_scaled(a, b, 0.7)));
            vec![row([2, 320, 128, 128]), row([2, 1280, 32, 32])]
        },
    },
];

fn drawn(dice: &mut Dice) -> [usize; 4] {
    let channels = if dice.once_in(3) { dice.between(1, 60) } else { dice.packs(30) };
    let (height, width) = dice.sides(30);
    [dice.batch(), channels, height, width]
}

/// `x` times 256: three quarters of it by a card's second stream, a quarter by its first, and that three times, one after the
/// other, so that each finds the memory of the one before.
fn twice(x: [usize; 4]) -> Case {
    const DOUBLINGS: usize = 6;
    fn doubled(x: &Tensor) -> Result<Tensor> {
        (0..DOUBLINGS).try_fold(x.clone(), |x, _| ops::add(&x, &x))
    }
    fn all_doubled(inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        inputs.iter().map(doubled).collect()
    }
    Case::made(text(&x), [picture(x)], |[x]| {
        let (aside, x) = (Aside::open(x), x.clone());
        let once = move || {
            let other = aside.run(&[&x], all_doubled)?;
            let input = ops::add(&x, &x)?;
            let before = place(&input);
            let fed = aside.run(&[&input], all_doubled)?;
            drop(input);
            let own = doubled(&x)?;
            // Whether the second stream still reads its input by now is a matter of microseconds, so pictures that are right
            // prove nothing: the allocator would give the last memory that was freed.
            if fed.is_aside() && place(&own) == before {
                candle_core::bail!("what the second stream may still read was freed, and written to")
            }
            let parts = [other.join()?.as_slice(), fed.join()?.as_slice()].concat();
            parts.iter().try_fold(own, |sum, part| ops::add(&sum, part))
        };
        Ok(Box::new(move || (0..3).map(|_| once()).collect()))
    })
    .writes(3 * count(&x))
    // In the 16 bits that nets have: each doubling and each copy to the side reads and writes its picture, each of two sums
    // reads another, and so does what is fed.
    .moves(2 * 3 * (2 * (3 * DOUBLINGS + 2) + 2 * 3 + 2) * count(&x))
}

/// Where a tensor lies on a card.
#[cfg(feature = "cuda")]
fn place(x: &Tensor) -> Option<usize> {
    crate::cuda::launch::View::of(x).ok().map(|view| view.address as usize)
}

#[cfg(not(feature = "cuda"))]
fn place(_: &Tensor) -> Option<usize> {
    None
}

fn nearest(x: [usize; 4], down: usize, across: usize) -> Case {
    let [_, _, height, width] = x;
    let (height, width) = (down * height, across * width);
    Case::new(format!("{} to {height} x {width}", text(&x)), [picture(x)], move |[x]| {
        one(ops::upsample_nearest(x, height, width))
    })
    .writes(count(&x) * down * across)
}

fn bilinear(x: [usize; 4], height: usize, width: usize) -> Case {
    let [batch, channels, _, _] = x;
    Case::new(format!("{} to {height} x {width}", text(&x)), [picture(x)], move |[x]| {
        one(resize(x, height, width))
    })
    .writes(batch * channels * height * width)
}

fn cat(batch: usize, [first, second]: [usize; 2], [height, width]: [usize; 2]) -> Case {
    let of = |channels: usize| [batch, channels, height, width];
    let all = of(first + second);
    Case::new(
        format!("{first} + {second} in {}", text(&all)),
        [picture(of(first)), picture(of(second))],
        |[first, second]| one(ops::cat_channels(&[first, second])),
    )
    .writes(count(&all))
}

fn normalised(x: [usize; 4], formula: fn(&BatchNorm, &Tensor) -> Result<Tensor>) -> Case {
    let [_, channels, _, _] = x;
    let around = |centre: f64| random([channels]).deviation(0.3).around(centre).wide();
    Case::new(
        text(&x),
        [picture(x), around(1.0), around(0.0), around(0.0), around(1.0)],
        move |[x, statistics @ ..]| one(formula(&BatchNorm::from_tensors(statistics.clone()), x)),
    )
    .writes(count(&x))
}

fn gated(x: [usize; 4]) -> Case {
    let [batch, _, height, width] = x;
    Case::new(text(&x), [picture(x), picture([batch, 1, height, width])], |[x, gate]| one(ops::gate(x, gate)))
        .writes(count(&x))
}

fn scaled(x: [usize; 4]) -> Case {
    Case::new(text(&x), [picture(x)], |[x]| one(ops::scaled(x, 0.7))).writes(count(&x))
}

/// `x` and as much again, or one picture for all.
fn sum(x: [usize; 4], one_for_all: bool, formula: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Case {
    let [batch, channels, height, width] = x;
    let other = [if one_for_all { 1 } else { batch }, channels, height, width];
    Case::new(
        if one_for_all { format!("{}, one for all", text(&x)) } else { text(&x) },
        [picture(x), picture(other)],
        move |[a, b]| one(formula(a, b)),
    )
    .writes(count(&x))
}

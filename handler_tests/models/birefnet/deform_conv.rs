//! Deformable convolution against the definition in f64, and stripes against the whole.

use candle_core::Tensor;
use marquee::models::birefnet::deform_conv::{COLUMNS, deform_conv2d, deform_conv2d_within};

use super::{close, error, floats, randn};

struct Case {
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    /// batch, inputs, outputs, height, width, kernel
    sizes: [usize; 6],
}

/// Offsets of about two pixels: many places lie beyond the border, and some right on it.
fn case(sizes: [usize; 6], seed: u64) -> Case {
    let [batch, inputs, outputs, height, width, kernel] = sizes;
    let taps = kernel * kernel;
    let offset = (randn(&[batch, 2 * taps, height, width], seed) * 2.0).unwrap();
    // Every other item has whole offsets: exactly -1 and exactly the side are the edges of "outside".
    let offset = if seed.is_multiple_of(2) { offset.round().unwrap() } else { offset };
    Case {
        x: randn(&[batch, inputs, height, width], seed + 100),
        offset,
        mask: randn(&[batch, taps, height, width], seed + 200),
        weight: randn(&[outputs, inputs, kernel, kernel], seed + 300),
        sizes,
    }
}

impl Case {
    /// The definition: `sum over c, j of w[o, c, j] · mask[j] · x(c, place + offset[j])`.
    fn naive(&self) -> Tensor {
        let [batch, inputs, outputs, height, width, kernel] = self.sizes;
        let (taps, margin) = (kernel * kernel, (kernel / 2) as f64);
        let (x, offset) = (floats(&self.x), floats(&self.offset));
        let (mask, weight) = (floats(&self.mask), floats(&self.weight));
        let pixel = |item: usize, channel: usize, row: f64, column: f64| {
            if row < 0.0 || column < 0.0 || row >= height as f64 || column >= width as f64 {
                return 0.0;
            }
            x[((item * inputs + channel) * height + row as usize) * width + column as usize]
        };
        let read = |item: usize, channel: usize, y: f64, x: f64| {
            let (top, left) = (y.floor(), x.floor());
            let mut sum = 0.0;
            for (below, beside) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] {
                let (row, column) = (top + below, left + beside);
                let weight = (1.0 - (y - row).abs()) * (1.0 - (x - column).abs());
                sum += weight * pixel(item, channel, row, column);
            }
            sum
        };
        let mut out = Vec::new();
        for item in 0..batch {
            for output in 0..outputs {
                for place in 0..height * width {
                    let (row, column) = (place / width, place % width);
                    let mut sum = 0.0;
                    for tap in 0..taps {
                        let at =
                            |planes: usize, plane: usize| (item * planes + plane) * height * width + place;
                        let y = row as f64 - margin + (tap / kernel) as f64 + offset[at(2 * taps, 2 * tap)];
                        let x = column as f64 - margin
                            + (tap % kernel) as f64
                            + offset[at(2 * taps, 2 * tap + 1)];
                        for channel in 0..inputs {
                            let weight = weight[(output * inputs + channel) * taps + tap];
                            sum += weight * mask[at(taps, tap)] * read(item, channel, y, x);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        Tensor::from_vec(out, (batch, outputs, height, width), self.x.device()).unwrap()
    }

    fn run(&self, columns: usize) -> Tensor {
        deform_conv2d_within(columns, &self.x, &self.offset, &self.mask, &self.weight).unwrap()
    }
}

const SIZES: [[usize; 6]; 5] = [
    // batch, inputs, outputs, height, width, kernel
    [1, 1, 1, 9, 8, 1],
    [2, 3, 5, 7, 4, 1],
    [1, 4, 2, 6, 9, 3],
    [2, 5, 3, 3, 11, 3],
    [1, 2, 4, 8, 5, 7],
];

#[test]
fn it_equals_the_definition() {
    for (seed, sizes) in SIZES.into_iter().cycle().take(10).enumerate() {
        let case = case(sizes, seed as u64 + 1);
        close(&format!("{sizes:?}"), &case.run(COLUMNS), &case.naive(), 2e-6);
    }
}

#[test]
fn stripes_equal_the_whole() {
    for sizes in SIZES {
        let case = case(sizes, 41);
        let whole = floats(&case.run(COLUMNS));
        let [batch, inputs, _, height, width, kernel] = sizes;
        let row = batch * inputs * width * kernel * kernel;
        for rows in 1..height {
            // 0 stands for less than a row: one row is the least.
            for columns in [rows * row, rows * row - usize::from(rows == 1)] {
                let striped = case.run(columns);
                let found = floats(&striped);
                let most = found.iter().zip(&whole).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
                assert!(most <= 1e-5, "{sizes:?} in stripes of {rows}: {most:e}");
            }
        }
    }
}

#[test]
fn without_offsets_it_is_a_convolution() {
    let case = case([2, 4, 3, 6, 5, 3], 7);
    let offset = case.offset.zeros_like().unwrap();
    let mask = case.mask.ones_like().unwrap();
    let found = deform_conv2d(&case.x, &offset, &mask, &case.weight).unwrap();
    let expected = case.x.conv2d(&case.weight, 1, 1, 1, 1).unwrap();
    close("plain", &found, &expected, 1e-6);
    assert!(error(&case.run(COLUMNS), &expected) > 0.1, "offsets change nothing");
}

#[test]
fn places_that_are_no_numbers_read_nothing() {
    let case = case([1, 2, 2, 3, 3, 1], 3);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30] {
        let offset = case.offset.zeros_like().unwrap().affine(0.0, bad).unwrap();
        let found = deform_conv2d(&case.x, &offset, &case.mask, &case.weight).unwrap();
        assert!(floats(&found).iter().all(|value| *value == 0.0), "{bad}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let case = case([1, 2, 2, 4, 4, 3], 3);
    let mask = case.mask.narrow(1, 0, 8).unwrap();
    let message = deform_conv2d(&case.x, &case.offset, &mask, &case.weight).unwrap_err().to_string();
    assert!(message.contains("mask [1, 8, 4, 4]"), "{message}");
}

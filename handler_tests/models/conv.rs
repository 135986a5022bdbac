//! Convolutions in stripes.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use marquee::models::ops::Conv;
use marquee::models::rng::Generator;
use marquee::models::weights::Weights;

#[test]
fn stripes_of_any_height_join_to_the_whole() {
    let mut generator = Generator::new(1);
    let mut draw = |shape: &[usize]| generator.randn(shape, DType::F32, &Device::Cpu).unwrap();
    let x = draw(&[2, 3, 13, 10]);
    for (size, stride, padding) in [(3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2), (7, 3, 3)] {
        let weights = HashMap::from([
            ("weight".to_owned(), draw(&[4, 3, size, size])),
            ("bias".to_owned(), draw(&[4])),
        ]);
        let weights = Weights::from_map(weights, DType::F32, &Device::Cpu);
        let conv = Conv::new(3, 4, size, stride, padding, &weights).unwrap();
        let whole: Vec<f32> = flat(&conv.forward(&x).unwrap());
        let width = (10 + 2 * padding - size) / stride + 1;
        for rows in [0, 1, 2, 3, 5] {
            let striped = conv.forward_within(&x, rows * width * 3 * size * size).unwrap();
            assert_eq!(striped.dims(), conv.forward(&x).unwrap().dims());
            for (one, other) in flat(&striped).iter().zip(&whole) {
                assert!(
                    (one - other).abs() < 1e-4,
                    "kernel {size} stride {stride} rows {rows}: {one} {other}"
                );
            }
        }
    }
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

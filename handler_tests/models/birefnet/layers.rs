//! Convolutions in stripes, patches, aligned resizes, batch norms.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use marquee::models::birefnet::PatchOrder;
use marquee::models::birefnet::conv::{BatchNorm, COLUMNS, conv2d};
use marquee::models::birefnet::patches::picture_to_patches;
use marquee::models::birefnet::resize::resize;
use marquee::models::weights::Weights;

use super::{close, floats, randn};

#[test]
fn convolutions_in_stripes_equal_the_whole() {
    for (kernel, height) in [(1, 9), (3, 9), (7, 5)] {
        let (x, weight) = (randn(&[2, 4, height, 6], 1), randn(&[3, 4, kernel, kernel], 2));
        let bias = randn(&[3], 3);
        let plain = x.conv2d(&weight, kernel / 2, 1, 1, 1).unwrap();
        let plain = plain.broadcast_add(&bias.reshape((1, 3, 1, 1)).unwrap()).unwrap();
        for columns in [COLUMNS, 0, 2 * (2 * 4 * kernel * kernel * 6), 4 * (2 * 4 * kernel * kernel * 6)] {
            let found = conv2d(&x, &weight, Some(&bias), columns).unwrap();
            close(&format!("kernel {kernel}, {columns} columns"), &found, &plain, 1e-6);
        }
    }
}

#[test]
fn an_even_kernel_is_refused() {
    let message = conv2d(&randn(&[1, 1, 4, 4], 1), &randn(&[1, 1, 2, 2], 2), None, COLUMNS);
    assert!(message.unwrap_err().to_string().contains("even kernel"));
}

/// Two channels of 4 x 6, numbered in memory order, in 2 x 2 patches of 2 x 3.
#[test]
fn patches_stack_in_either_order() {
    let x = Tensor::arange(0f32, 48.0, &Device::Cpu).unwrap().reshape((1, 2, 4, 6)).unwrap();
    let first_pixels = |order| {
        let patches = picture_to_patches(&x, 2, order).unwrap();
        assert_eq!(patches.dims(), [1, 8, 2, 3]);
        floats(&patches.narrow(2, 0, 1).unwrap().narrow(3, 0, 1).unwrap())
    };
    // Patches start at row 0 or 2 (+12) and column 0 or 3 (+3); the second channel is 24 on.
    assert_eq!(first_pixels(PatchOrder::ChannelsFirst), [0., 3., 12., 15., 24., 27., 36., 39.]);
    assert_eq!(first_pixels(PatchOrder::ColumnsFirst), [0., 24., 12., 36., 3., 27., 15., 39.]);
    let patches = picture_to_patches(&x, 2, PatchOrder::ChannelsFirst).unwrap();
    let inside = floats(&patches.narrow(1, 3, 1).unwrap());
    assert_eq!(inside, [15., 16., 17., 21., 22., 23.]);
    let message = picture_to_patches(&x, 4, PatchOrder::ChannelsFirst).unwrap_err().to_string();
    assert!(message.contains("4 x 4 patches"), "{message}");
}

#[test]
fn a_map_without_pixels_is_refused() {
    assert!(resize(&randn(&[1, 1, 3, 3], 1), 0, 4).is_err());
}

/// At the net's real size, where candle's positions in f64 drift from torch's in f32.
#[test]
fn positions_are_torchs_in_f32() {
    let steps: Vec<f32> = (0..256).map(|x| x as f32).collect();
    let ramp = Tensor::from_vec(steps, (1, 1, 1, 256), &Device::Cpu).unwrap();
    let found: Vec<f32> = resize(&ramp, 1, 1024).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let ratio = 255f32 / 1023f32;
    for (x, value) in found.iter().enumerate() {
        let position = ratio * x as f32;
        let (at, weight) = (position.floor(), position - position.floor());
        let expected = at * (1.0 - weight) + (at + 1.0).min(255.0) * weight;
        assert_eq!(value.to_bits(), expected.to_bits(), "at {x}");
    }
}

#[test]
fn batch_norm_uses_the_stored_statistics() {
    let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu).unwrap();
    let map = HashMap::from([
        ("weight".to_owned(), tensor([2.0, 0.5])),
        ("bias".to_owned(), tensor([1.0, -1.0])),
        ("running_mean".to_owned(), tensor([3.0, -2.0])),
        ("running_var".to_owned(), tensor([4.0, 0.25])),
    ]);
    let norm = BatchNorm::new(2, &Weights::from_map(map, DType::F32, &Device::Cpu)).unwrap();
    let x = Tensor::new(&[[[[5f32]], [[-4f32]]]], &Device::Cpu).unwrap();
    let expected = [2.0 * 2.0 / 4.00001f64.sqrt() + 1.0, 0.5 * -2.0 / 0.25001f64.sqrt() - 1.0];
    for (found, expected) in floats(&norm.forward(&x).unwrap()).into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    assert_eq!(floats(&norm.relu(&x).unwrap())[1].to_bits(), 0);
}

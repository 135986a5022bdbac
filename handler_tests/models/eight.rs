//! Weights in 8 bits: every number goes to the nearest one that the format has, and layers agree with their exact twins as far
//! as its digits allow.

use candle_core::{DType, Device, Module, Tensor};
use marquee::models::flux::{Conditioner, FluxConfig, Transformer};
use marquee::models::ops::{self, Eight, Int8, Linear, Operand, QkNorm, RopeTable, Rounding};
use marquee::models::rng::Generator;

use super::golden::Goldens;

/// All numbers of e4m3 that are at least zero, from the format's definition.
fn all() -> Vec<f32> {
    let mut all: Vec<f32> = (0..8).map(|mantissa| mantissa as f32 / 512.0).collect();
    for exponent in -6..=8 {
        all.extend((0..8).map(|mantissa| (1.0 + mantissa as f32 / 8.0) * 2f32.powi(exponent)));
    }
    // The last code is no number.
    all.pop();
    all
}

fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
    Generator::new(seed).randn(shape, DType::F32, &Device::Cpu).unwrap()
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let norm = |x: Tensor| f64::from(x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    norm((found - expected).unwrap()) / norm(expected.clone())
}

#[test]
fn numbers_go_to_the_nearest_one_there_is() {
    let all = all();
    assert_eq!((all.len(), all.last()), (127, Some(&448.0)));
    // Every number, every half way, and a step to either side of it; 448 makes the row's scale 1.
    let mut row = vec![448.0];
    for pair in all.windows(2) {
        let middle = f32::midpoint(pair[0], pair[1]);
        row.extend([pair[0], middle, middle.next_down(), middle.next_up()]);
    }
    row.extend(row.clone().iter().map(|x| -x));
    let count = row.len();
    let found = Eight::new(&Tensor::from_slice(&row, (1, count), &Device::Cpu).unwrap()).unwrap().widened();
    let found = found.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (x, found) in row.iter().zip(found) {
        let nearest = all.iter().map(|y| (y - x.abs()).abs()).fold(f32::INFINITY, f32::min);
        assert!((found - x).abs() <= nearest, "{x} went to {found}");
        if all.iter().filter(|y| (*y - x.abs()).abs() <= nearest).count() == 2 {
            let code = all.iter().position(|y| y.to_bits() == found.abs().to_bits()).unwrap();
            assert_eq!(code % 2, 0, "{x} is half way and went to {found}, an odd code");
        }
        assert_eq!(found.is_sign_negative(), x.is_sign_negative());
    }
}

#[test]
fn int8_goes_to_the_nearest_integer() {
    // 127 makes the row's scale 1.
    let mut row = vec![127.0f32, -127.0, 0.0, -0.0, 1e-9];
    for whole in -126..=126 {
        let middle = whole as f32 + 0.5;
        row.extend([whole as f32, middle, middle.next_down(), middle.next_up()]);
    }
    let int8 = Int8::new(&Tensor::from_slice(&row, (1, row.len()), &Device::Cpu).unwrap()).unwrap();
    let found = int8.widened(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let nearest: Vec<f32> = row.iter().map(|x| x.round_ties_even()).collect();
    assert_eq!(found, nearest);
    // Rounded once: the product of number and scale, not the scale.
    let int8 = Int8::new(&noise(6, (3, 32))).unwrap();
    let wide = int8.widened(DType::F32).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let (found, expected) = (int8.widened(dtype).unwrap(), wide.to_dtype(dtype).unwrap());
        assert!(
            distance(&found.to_dtype(DType::F32).unwrap(), &expected.to_dtype(DType::F32).unwrap()) < 1e-12
        );
    }
}

#[test]
fn each_row_has_its_own_scale() {
    let x = Tensor::new(&[[1e-6f32, -2e-6], [3000.0, 1.0], [0.0, 0.0]], &Device::Cpu).unwrap();
    let int8 = Int8::new(&x).unwrap();
    assert_eq!(int8.parts().1.to_vec1::<f32>().unwrap(), [2e-6 / 127.0, 3000.0 / 127.0, 1.0]);
    let eight = Eight::new(&x).unwrap();
    let scales = eight.parts().1.to_vec1::<f32>().unwrap();
    assert_eq!(scales, [2e-6 / 448.0, 3000.0 / 448.0, 1.0]);
    assert!(distance(&eight.widened().unwrap().narrow(0, 0, 1).unwrap(), &x.narrow(0, 0, 1).unwrap()) < 1e-6);
}

#[test]
fn a_layer_in_eight_bits_is_near_its_exact_twin() {
    let (x, weight, bias) =
        (noise(1, (48, 96)), noise(2, (32, 96)), noise(3, (1, 32)).flatten_all().unwrap());
    let exact = Linear::dense(weight.clone(), Some(bias.clone()));
    let eight = Linear::eight(Eight::new(&weight).unwrap(), Some(bias));
    let error = distance(&eight.forward(&x).unwrap(), &exact.forward(&x).unwrap());
    // Two sides of three bits: 2.6 %. Much less would mean that one of them was not rounded.
    assert!((0.02..0.035).contains(&error), "{error}");

    let (shift, scale) = (noise(4, (1, 96)), noise(5, (1, 96)));
    let x = x.unsqueeze(0).unwrap();
    let operand = ops::layer_norm_modulate_for(&eight, &x, &shift, &scale, 1e-6).unwrap();
    assert!(matches!(operand, Operand::Eight(_)));
    let normed = ops::layer_norm_modulate(&x, &shift, &scale, 1e-6).unwrap();
    let (found, expected) = (eight.forward_gelu(&operand).unwrap(), exact.forward(&normed).unwrap());
    let error = distance(&found, &ops::gelu_tanh(&expected).unwrap());
    assert!((0.015..0.045).contains(&error), "{error}");
    assert!(exact.forward_operand(&operand).is_err());
}

#[test]
fn attention_in_eight_bits_is_near_its_exact_twin() {
    let (tokens, heads, dim) = (96, 2, 32);
    let qkv = noise(1, (tokens, 3 * heads * dim)).unsqueeze(0).unwrap();
    let weight = || Tensor::ones(dim, DType::F32, &Device::Cpu).unwrap();
    let norm = QkNorm { q: weight(), k: weight() };
    let angles = noise(2, (tokens, dim / 2));
    let rope = RopeTable::from_tensors(angles.cos().unwrap(), angles.sin().unwrap());
    let before = qkv.copy().unwrap();
    let eight = ops::rms_norm_rope_eight(&qkv, heads, 10, [&norm, &norm], 1e-6, &rope).unwrap();
    assert!(distance(&qkv, &before) < 1e-12, "what it reads stays");
    let found = ops::attention_eight(&eight, heads).unwrap();
    assert_eq!((found.dims(), found.dtype()), (&[1, tokens, heads * dim][..], DType::U8));
    let found = Eight::unscaled(found, DType::F32).unwrap();
    ops::rms_norm_rope(&qkv, heads, 10, [&norm, &norm], 1e-6, &rope).unwrap();
    let part = |index: usize| {
        let part = qkv.narrow(2, index * heads * dim, heads * dim).unwrap();
        part.reshape((1, tokens, heads, dim)).unwrap()
    };
    let exact = ops::attention(&part(0), &part(1), &part(2), 1.0 / (dim as f64).sqrt(), None).unwrap();
    let exact = exact.reshape((1, tokens, heads * dim)).unwrap();
    let error = distance(&found.widened().unwrap(), &exact);
    // Scores of unit variance off by 3.7 %, v and the result by 2.6 % each.
    assert!((0.035..0.065).contains(&error), "{error}");

    // In front of numbers with a row's scale they lose nothing but a second rounding.
    let fed = noise(3, (tokens, 48)).unsqueeze(0).unwrap();
    let both = Eight::beside(found.parts().0, &fed).unwrap().widened().unwrap();
    assert_eq!(both.dims(), [1, tokens, heads * dim + 48]);
    let expected = Tensor::cat(&[&found.widened().unwrap(), &fed], 2).unwrap();
    let error = distance(&both, &expected);
    assert!((0.015..0.03).contains(&error), "{error}");
}

#[test]
fn numbers_without_a_scale_are_held_within_the_range() {
    let x = Tensor::new(&[[1e6f32, -1e6, 448.0, 0.5, 0.0, 1e-9]], &Device::Cpu).unwrap();
    let eight = Eight::unscaled(ops::unscaled_eight(&x).unwrap(), DType::F32).unwrap();
    assert_eq!(eight.widened().unwrap().to_vec2::<f32>().unwrap(), [[448.0, -448.0, 448.0, 0.5, 0.0, 0.0]]);
}

#[test]
fn int8_weights_leave_what_they_meet_as_it_is() {
    let (x, weight, bias) =
        (noise(1, (48, 3072)), noise(2, (32, 3072)), noise(3, (1, 32)).flatten_all().unwrap());
    let exact = Linear::dense(weight.clone(), Some(bias.clone()));
    let int8 = Linear::int8(Int8::new(&weight).unwrap(), Some(bias.clone()));
    let error = distance(&int8.forward(&x).unwrap(), &exact.forward(&x).unwrap());
    // Steps of a 127th of the row's largest, here 3.5 deviations: 0.8 %.
    assert!((0.006..0.01).contains(&error), "{error}");

    // Every way through the layer reads dense operands, and is the dense layer's over the widened matrix.
    let twin = Linear::dense(Int8::new(&weight).unwrap().widened(DType::F32).unwrap(), Some(bias));
    let (shift, scale) = (noise(4, (1, 3072)), noise(5, (1, 3072)));
    let x = x.unsqueeze(0).unwrap();
    assert!(!int8.reads_eight());
    let operand = ops::layer_norm_modulate_for(&int8, &x, &shift, &scale, 1e-6).unwrap();
    assert!(matches!(operand, Operand::Dense(_)) && matches!(int8.operand(&x).unwrap(), Operand::Dense(_)));
    assert!(distance(&int8.forward_gelu(&operand).unwrap(), &twin.forward_gelu(&operand).unwrap()) < 1e-12);
    let buffers = [&int8, &twin].map(|layer| {
        let buffer = Tensor::zeros((1, 48, 40), DType::F32, &Device::Cpu).unwrap();
        layer.forward_into(&operand, &buffer, 2, 8).unwrap();
        buffer
    });
    assert!(distance(&buffers[0], &buffers[1]) < 1e-12);
    assert!(int8.forward_operand(&Operand::Eight(Eight::new(&x).unwrap())).is_err());

    // In 16 bits the matrix is rounded to them first, as on a card.
    let half = |x: &Tensor| x.to_dtype(DType::BF16).unwrap();
    let [int8, twin] = [&int8, &twin].map(|layer| {
        let matrix = match layer.rounded() {
            Some((_, numbers, scales)) => {
                Linear::int8(Int8::from_parts(numbers.clone(), scales.clone()), None)
            }
            None => Linear::dense(half(&Int8::new(&weight).unwrap().widened(DType::F32).unwrap()), None),
        };
        matrix.forward(&half(&x)).unwrap().to_dtype(DType::F32).unwrap()
    });
    assert!(distance(&int8, &twin) < 1e-12);
}

#[test]
fn only_the_blocks_of_flux_are_rounded() {
    let goldens = Goldens::open("halves");
    let case = goldens.cases("transformer_bf16").remove(0);
    let component = goldens.component(&case, "transformer");
    let (config, weights) = (component.config::<FluxConfig>(), component.weights(DType::F32));
    let modulation = Conditioner::new(&config, &weights)
        .unwrap()
        .precompute(&[500.0], 3.5, &goldens.input(&case, "pooled"))
        .unwrap();
    let predict = |eight: Option<Rounding>| {
        let net = Transformer::new(&config, &weights.in_eight(eight)).unwrap();
        let text = goldens.input(&case, "encoder_hidden_states");
        let rope = net.rope(text.dim(1).unwrap(), 3, 5, &Device::Cpu).unwrap();
        let image = goldens.input(&case, "hidden_states");
        net.forward(&image, &text, modulation.step(0), &rope, &mut |_| Ok(())).unwrap()
    };
    let error = |rounding| distance(&predict(Some(rounding)), &predict(None));
    let (e4m3, int8) = (error(Rounding::E4m3), error(Rounding::Int8));
    assert!((0.001..0.1).contains(&e4m3), "{e4m3}");
    assert!((0.0002..0.03).contains(&int8) && int8 < e4m3, "{int8}");
}

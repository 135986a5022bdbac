//! The transformer in bf16 rounds where diffusers does, and asks before each block.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use marquee::models::flux::{BlockId, Conditioner, FluxConfig, Transformer};
use marquee::models::rng::Generator;
use marquee::models::weights::{Probe, Weights};

use super::golden::Goldens;

#[test]
fn bf16_rounds_where_diffusers_does() {
    let goldens = Goldens::open("halves");
    let case = goldens.cases("transformer_bf16").remove(0);
    let component = goldens.component(&case, "transformer");
    let (config, weights) = (component.config::<FluxConfig>(), component.weights(DType::BF16));
    let input = |role: &str| goldens.input(&case, role).to_dtype(DType::BF16).unwrap();
    let number = |name: &str| case.parameters[name].as_f64().unwrap();

    let net = Transformer::new(&config, &weights).unwrap();
    let times = [number("scheduler_timestep") as f32];
    let modulation = Conditioner::new(&config, &weights)
        .unwrap()
        .precompute(&times, number("guidance") as f32, &input("pooled"))
        .unwrap();
    let text = input("encoder_hidden_states");
    let (rows, columns) = (number("height") as usize, number("width") as usize);
    let rope = net.rope(text.dim(1).unwrap(), rows, columns, &Device::Cpu).unwrap();
    let mut blocks = Vec::new();
    let found = net
        .forward(&input("hidden_states"), &text, modulation.step(0), &rope, &mut |block| {
            blocks.push(block);
            Ok(())
        })
        .unwrap();

    assert_eq!(found.dtype(), DType::BF16);
    // Without rounding timestep and guidance as diffusers does it is above 0.3.
    goldens.close(&case, "output", &found, 0.008);
    assert_eq!(blocks, [BlockId::Double(0), BlockId::Double(1), BlockId::Single(0), BlockId::Single(1)]);
}

#[test]
fn a_refusing_hook_ends_the_step() {
    let goldens = Goldens::open("halves");
    let case = goldens.cases("transformer_bf16").remove(0);
    let component = goldens.component(&case, "transformer");
    let (config, weights) = (component.config::<FluxConfig>(), component.weights(DType::F32));
    let net = Transformer::new(&config, &weights).unwrap();
    let modulation = Conditioner::new(&config, &weights)
        .unwrap()
        .precompute(&[500.0], 3.5, &goldens.input(&case, "pooled"))
        .unwrap();
    let text = goldens.input(&case, "encoder_hidden_states");
    let rope = net.rope(text.dim(1).unwrap(), 3, 5, &Device::Cpu).unwrap();
    let mut seen = 0;
    let result =
        net.forward(&goldens.input(&case, "hidden_states"), &text, modulation.step(0), &rope, &mut |_| {
            seen += 1;
            if seen == 3 { Err(candle_core::Error::Msg("enough".to_owned())) } else { Ok(()) }
        });
    assert_eq!(result.unwrap_err().to_string(), "enough");
    assert_eq!(seen, 3);
}

/// A row of the table depends on its own timestep only: 28 steps at once are 28 steps.
#[test]
fn tables_of_many_steps_equal_those_of_one() {
    let goldens = Goldens::open("halves");
    let case = goldens.cases("transformer_bf16").remove(0);
    let component = goldens.component(&case, "transformer");
    let (config, weights) = (component.config::<FluxConfig>(), component.weights(DType::F32));
    let net = Transformer::new(&config, &weights).unwrap();
    let conditioner = Conditioner::new(&config, &weights).unwrap();
    let draw = |seed: u64, shape: &[usize]| -> Tensor {
        Generator::new(seed).randn(shape, DType::F32, &Device::Cpu).unwrap()
    };
    let (image, text, pooled) = (draw(1, &[2, 6, 64]), draw(2, &[2, 5, 32]), draw(3, &[2, 32]));
    let rope = net.rope(5, 2, 3, &Device::Cpu).unwrap();
    let run = |times: &[f32], step: usize, range: std::ops::Range<usize>| -> Vec<f32> {
        let part = |x: &Tensor| x.narrow(0, range.start, range.len()).unwrap();
        let modulation = conditioner.precompute(times, 3.5, &part(&pooled)).unwrap();
        let found = net.forward(&part(&image), &part(&text), modulation.step(step), &rope, &mut |_| Ok(()));
        found.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let both = run(&[900.0, 400.0, 10.0], 1, 0..2);
    let mut each = run(&[400.0], 0, 0..1);
    each.extend(run(&[400.0], 0, 1..2));
    assert_eq!(both.len(), each.len());
    let worst = both.iter().zip(&each).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-5, "{worst}");
    assert_ne!(both, run(&[900.0, 400.0, 10.0], 0, 0..2));
}

/// The published FLUX.1-dev has 1160 tensors and 11 901.41 million parameters, 3.25 billion of them modulation.
#[test]
fn the_full_size_nets_ask_for_the_published_tensors() {
    let count = |build: &dyn Fn(&Weights)| {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe));
        let expected = probe.expected();
        let keys: std::collections::HashSet<_> = expected.iter().map(|tensor| &tensor.key).collect();
        assert_eq!(keys.len(), expected.len(), "no tensor is read twice");
        (expected.len(), expected.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>())
    };
    let dev = FluxConfig::dev();
    let (every_step, parameters) = count(&|w| drop(Transformer::new(&dev, w).unwrap()));
    let (once, conditioning) = count(&|w| drop(Conditioner::new(&dev, w).unwrap()));
    assert_eq!(every_step + once, 1160);
    assert_eq!((parameters + conditioning) / 10_000, 1_190_140);
    assert_eq!(conditioning / 10_000_000, 327);

    let schnell = FluxConfig::default();
    let (without_guidance, _) = count(&|w| drop(Conditioner::new(&schnell, w).unwrap()));
    assert_eq!(once - without_guidance, 4);
}

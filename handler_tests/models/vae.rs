//! The autoencoder against diffusers.

use candle_core::DType;
use marquee::models::rng::Generator;
use marquee::models::vae::{Vae, VaeConfig};

use super::golden::Goldens;

const BOUND: f64 = 1e-5;

#[test]
fn encoding_sampling_and_decoding_equal_diffusers() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("vae") {
        let component = goldens.component(&case, "vae");
        let net = Vae::new(&component.config::<VaeConfig>(), &component.weights(DType::F32)).unwrap();
        let (pixels, latents) = (goldens.input(&case, "pixels"), goldens.input(&case, "latents"));
        let posterior = net.encode(&pixels).unwrap();
        goldens.close(&case, "mean", &posterior.mode(), BOUND);
        goldens.close(&case, "std", &posterior.std, BOUND);
        let mut generator = Generator::new(case.parameters["seed"].as_u64().unwrap());
        goldens.close(&case, "sample", &posterior.sample(&mut generator).unwrap(), BOUND);
        goldens.close(&case, "decoded", &net.decode(&latents).unwrap(), BOUND);
        goldens.close(&case, "tiled_mean", &net.encode_tiled(&pixels).unwrap().mean, BOUND);
        goldens.close(&case, "tiled_decoded", &net.decode_tiled(&latents).unwrap(), BOUND);
    }
}

#[test]
fn half_precision_stays_near() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("vae") {
        let component = goldens.component(&case, "vae");
        for (dtype, bound) in [(DType::BF16, 2e-2), (DType::F16, 3e-3)] {
            let net = Vae::new(&component.config::<VaeConfig>(), &component.weights(dtype)).unwrap();
            let latents = goldens.input(&case, "latents").to_dtype(dtype).unwrap();
            let decoded = net.decode(&latents).unwrap();
            assert_eq!(decoded.dtype(), dtype);
            goldens.close(&case, "decoded", &decoded, bound);
            let posterior = net.encode(&goldens.input(&case, "pixels").to_dtype(dtype).unwrap()).unwrap();
            goldens.close(&case, "mean", &posterior.mean, bound);
            goldens.close(&case, "std", &posterior.std, bound);
            let sample = posterior.sample(&mut Generator::new(7)).unwrap();
            assert_eq!(sample.dtype(), dtype);
            let tiled = net.decode_tiled(&latents).unwrap();
            goldens.close(&case, "tiled_decoded", &tiled, bound);
        }
    }
}

#[test]
fn scaling_and_unscaling_are_inverse_and_rounded_by_step() {
    let goldens = Goldens::open("stages");
    let case = &goldens.cases("vae")[0];
    let component = goldens.component(case, "vae");
    let net = Vae::new(&component.config::<VaeConfig>(), &component.weights(DType::F32)).unwrap();
    let z = goldens.input(case, "latents");
    let scaled = net.scale(&z).unwrap();
    let first = |x: &candle_core::Tensor| {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    };
    let same =
        |found: f32, expected: f32| assert_eq!(found.to_bits(), expected.to_bits(), "{found} {expected}");
    same(first(&scaled), (first(&z) - 0.1159f32) * 0.3611f32);
    same(first(&net.unscale(&scaled).unwrap()), first(&scaled) / 0.3611f32 + 0.1159f32);
    // In bf16 the constants stay f32 and each operation rounds once.
    let small = z.to_dtype(DType::BF16).unwrap();
    let rounded = |x: f32| half::bf16::from_f32(x).to_f32();
    let expected = rounded(rounded(first(&small) - 0.1159f32) * 0.3611f32);
    same(first(&net.scale(&small).unwrap()), expected);
}

#[test]
fn f16_is_widened_only_where_the_checkpoint_says_that_it_overflows() {
    let mut config = VaeConfig { force_upcast: true, ..VaeConfig::default() };
    assert_eq!(config.safe_dtype(DType::F16), DType::F32);
    assert_eq!(config.safe_dtype(DType::BF16), DType::BF16);
    config.force_upcast = false;
    assert_eq!(config.safe_dtype(DType::F16), DType::F16);
}

#[test]
fn a_missing_tensor_and_a_foreign_config_are_named() {
    let goldens = Goldens::open("stages");
    let case = &goldens.cases("vae")[0];
    let component = goldens.component(case, "vae");
    let mut config: VaeConfig = component.config();
    config.use_quant_conv = true;
    let error = Vae::new(&config, &component.weights(DType::F32)).unwrap_err().to_string();
    assert!(error.contains("quant_conv.weight"), "{error}");
    config.down_block_types = Some(vec!["AttnDownEncoderBlock2D".to_owned()]);
    let error = Vae::new(&config, &component.weights(DType::F32)).unwrap_err().to_string();
    assert!(error.contains("AttnDownEncoderBlock2D"), "{error}");
}

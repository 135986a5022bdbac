//! The words of `DEVICE` and `DTYPE`.

use candle_core::{DType, Device};
use marquee::models::device::{DeviceError, Target, dtype, memory};

#[test]
fn devices_are_named_as_documented() {
    let parse = |text: &str| text.parse::<Target>().ok();
    assert_eq!(parse("cpu"), Some(Target::Cpu));
    assert_eq!(parse(" CUDA "), Some(Target::Cuda(0)));
    assert_eq!(parse("cuda:3"), Some(Target::Cuda(3)));
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:1:2", "cpu:0", "cuda:99999999999999999999"]
    {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
    for target in [Target::Cpu, Target::Cuda(2)] {
        assert_eq!(parse(&target.to_string()), Some(target));
    }
}

#[test]
fn a_wrong_word_is_told_with_the_right_ones() {
    let device = "gpu".parse::<Target>().unwrap_err().to_string();
    assert!(device.contains("DEVICE=gpu") && device.contains("cuda:N"), "{device}");
    let format = dtype("fp8").unwrap_err().to_string();
    assert!(format.contains("DTYPE=fp8") && format.contains("bf16"), "{format}");
}

#[test]
fn formats_are_named_as_documented_and_defaults_follow_the_device() {
    for (text, format) in [("f32", DType::F32), ("BF16", DType::BF16), ("f16 ", DType::F16)] {
        assert_eq!(dtype(text).ok(), Some(format));
    }
    assert_eq!(Target::Cpu.default_dtype(), DType::F32);
    assert_eq!(Target::Cuda(0).default_dtype(), DType::BF16);
}

#[test]
fn the_cpu_opens_and_counts_no_memory_of_its_own() {
    let device = Target::Cpu.open().unwrap();
    assert!(device.is_cpu());
    assert_eq!(memory(&Device::Cpu).unwrap(), None);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_cpu_build_says_so_when_asked_for_a_card() {
    let error = Target::Cuda(1).open().unwrap_err();
    assert!(matches!(error, DeviceError::NotBuilt(Target::Cuda(1))), "{error}");
    assert!(error.to_string().contains("DEVICE=cuda:1"), "{error}");
}

#[cfg(feature = "cuda")]
#[test]
fn a_card_opens_and_counts_what_is_put_on_it_or_says_why_not() {
    match Target::Cuda(0).open() {
        Ok(device) => {
            let before = memory(&device).unwrap().unwrap();
            let kept = candle_core::Tensor::zeros(64 << 20, DType::F32, &device).unwrap();
            let after = memory(&device).unwrap().unwrap();
            assert!(before.free - after.free >= 256 << 20, "{before:?} {after:?}");
            assert_eq!(before.total, after.total);
            drop(kept);
        }
        Err(error) => {
            assert!(matches!(error, DeviceError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("nvidia-smi"), "{error}");
        }
    }
}

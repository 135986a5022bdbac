//! The whole graph against the original's outputs.

use candle_core::{DType, Device};
use marquee::models::birefnet::aspp::DeformableConv;
use marquee::models::birefnet::{BiRefNet, PatchOrder, Stage};
use marquee::models::weights::Weights;

use super::{Golden, error};

#[test]
fn features_and_logits_equal_the_original() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config(), &golden.weights(DType::F32)).unwrap();
    let features = net.features(&golden.input("a"), &mut |_| Ok(())).unwrap();
    for (index, feature) in features.iter().enumerate() {
        golden.close(&format!("a.x{}", index + 1), feature, 1e-5);
    }
    for tag in ["a", "b"] {
        let logits = net.logits(&golden.input(tag), &mut |_| Ok(())).unwrap();
        golden.close(&format!("{tag}.logits"), &logits, 1e-4);
    }
}

#[test]
fn the_lone_deformable_layer_equals_torchvision() {
    let golden = Golden::open();
    let own = golden.tensors.iter().filter_map(|(key, tensor)| Some((key.strip_prefix("deform.")?, tensor)));
    let map = own.map(|(key, tensor)| (key.to_owned(), tensor.clone())).collect();
    let layer = DeformableConv::new(8, 6, 7, &Weights::from_map(map, DType::F32, &Device::Cpu)).unwrap();
    let found = layer.forward(&golden.tensors["deform.x"]).unwrap();
    golden.close("deform.y", &found, 1e-5);
}

#[test]
fn the_order_of_patches_matters() {
    let golden = Golden::open();
    let mut config = golden.config();
    config.patch_order = PatchOrder::ColumnsFirst;
    let net = BiRefNet::new(&config, &golden.weights(DType::F32)).unwrap();
    let logits = net.logits(&golden.input("a"), &mut |_| Ok(())).unwrap();
    let error = error(&logits, &golden.tensors["a.logits"]);
    assert!(error > 1e-2, "only {error:e} apart");
}

#[test]
fn half_precision_stays_near() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config(), &golden.weights(DType::F16)).unwrap();
    let x = golden.input("a").to_dtype(DType::F16).unwrap();
    let logits = net.logits(&x, &mut |_| Ok(())).unwrap();
    assert_eq!(logits.dtype(), DType::F32);
    golden.close("a.logits", &logits, 3e-2);
}

#[test]
fn stages_are_told_in_order_and_can_stop_the_run() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config(), &golden.weights(DType::F32)).unwrap();
    let x = golden.input("a").narrow(2, 0, 32).unwrap().narrow(3, 0, 64).unwrap().contiguous().unwrap();
    let mut told = Vec::new();
    net.logits(&x, &mut |stage| {
        told.push(stage);
        Ok(())
    })
    .unwrap();
    assert_eq!(told.len(), net.stages());
    let encode = |half| (0..8).map(move |block| Stage::Encode { half, block });
    let rest = [Stage::Squeeze].into_iter().chain((0..4).rev().map(|level| Stage::Decode { level }));
    let all: Vec<_> = encode(false).chain(encode(true)).chain(rest).chain([Stage::Logits]).collect();
    assert_eq!(told, all);

    let mut calls = 0;
    let stopped = net.logits(&x, &mut |stage| {
        calls += 1;
        if stage == (Stage::Encode { half: true, block: 1 }) {
            Err(candle_core::Error::msg("stopped"))
        } else {
            Ok(())
        }
    });
    assert!(stopped.unwrap_err().to_string().contains("stopped"));
    assert_eq!(calls, 10);
}

#[test]
fn sides_that_do_not_fit_are_named() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config(), &golden.weights(DType::F32)).unwrap();
    let x = golden.input("a").narrow(2, 0, 48).unwrap();
    let message = net.logits(&x, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(message.contains("48 x 160") && message.contains("multiples of 32"), "{message}");
}

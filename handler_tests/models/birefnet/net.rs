//! The whole graph: what its options change, how it is watched, and how near half precision stays.

use candle_core::DType;
use marquee::models::birefnet::{BiRefNet, PatchOrder, Stage};

use super::{Golden, error, wide};

#[test]
fn the_order_of_patches_matters() {
    let golden = Golden::open();
    let mut config = golden.config.clone();
    config.patch_order = PatchOrder::ColumnsFirst;
    let net = BiRefNet::new(&config, &golden.weights(DType::F32)).unwrap();
    let logits = net.logits(&wide(), &mut |_| Ok(())).unwrap();
    let error = error(&logits, golden.tensor("wide.out.logits"));
    assert!(error > 1e-2, "only {error:e} apart");
}

#[test]
fn half_precision_stays_near() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config, &golden.weights(DType::F16)).unwrap();
    let x = wide().to_dtype(DType::F16).unwrap();
    let logits = net.logits(&x, &mut |_| Ok(())).unwrap();
    assert_eq!(logits.dtype(), DType::F32);
    golden.close("wide.out.logits", &logits, 3e-2);
}

#[test]
fn stages_are_told_in_order_and_can_stop_the_run() {
    let golden = Golden::open();
    let net = BiRefNet::new(&golden.config, &golden.weights(DType::F32)).unwrap();
    let x = wide().narrow(2, 0, 32).unwrap().narrow(3, 0, 64).unwrap().contiguous().unwrap();
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
    let net = BiRefNet::new(&golden.config, &golden.weights(DType::F32)).unwrap();
    let x = wide().narrow(2, 0, 48).unwrap();
    let message = net.logits(&x, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(message.contains("48 x 160") && message.contains("multiples of 32"), "{message}");
}

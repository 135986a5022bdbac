//! Nets whose blocks come and go compute what they compute with all of them there.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use marquee::memory::pace::Pace;
use marquee::memory::{Parts, Store, Transfer};
use marquee::models::flux::{BlockId, Conditioner, FluxConfig, Modulation, Transformer};
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::weights::{Source, Weights};

use super::store::{flux, noise, same};

/// A store with its host copy.
pub fn store(source: &Arc<dyn Source>, build: &dyn Fn(&Weights) -> Result<()>) -> Arc<Store> {
    let store = Store::new("net", Arc::clone(source), DType::F32, &Device::Cpu, build).unwrap();
    store.load_host(&Pace::default()).unwrap();
    Arc::new(store)
}

/// The store's weights with the pieces `streamed` coming and going.
pub fn streaming(store: &Arc<Store>, streamed: &[usize], again: bool) -> Weights {
    let mut parts = Parts::new(store, &Transfer::new(&Device::Cpu).unwrap());
    let stay: Vec<usize> = (0..store.pieces().len()).filter(|piece| !streamed.contains(piece)).collect();
    parts.bring(&stay, &|| true).unwrap();
    parts.weights(streamed, again).unwrap()
}

pub struct Input {
    image: Tensor,
    text: Tensor,
    modulation: Modulation,
}

pub fn input(config: &FluxConfig, conditioner: &Conditioner) -> Input {
    let pooled = noise(&[1, config.pooled_projection_dim], 5);
    Input {
        image: noise(&[1, 6, config.in_channels], 3),
        text: noise(&[1, 4, config.joint_attention_dim], 4),
        modulation: conditioner.precompute(&[900.0, 300.0], 3.5, &pooled).unwrap(),
    }
}

/// Both steps, the second from the first's prediction.
pub fn run(net: &Transformer, input: &Input, stop: Option<BlockId>) -> Result<Tensor> {
    let rope = net.rope(4, 2, 3, &Device::Cpu)?;
    let mut image = input.image.clone();
    for step in 0..2 {
        image =
            net.forward(&image, &input.text, input.modulation.step(step), &rope, &mut |at| match stop {
                Some(block) if block == at => Err(candle_core::Error::Msg("stopped".to_owned())),
                _ => Ok(()),
            })?;
    }
    Ok(image)
}

#[test]
fn a_streamed_transformer_predicts_what_a_resident_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let files = flux(folder.path()).transformer;
    let config = &files.config;
    let plain = Weights::new(Arc::clone(&files.source), DType::F32, &Device::Cpu);
    let input = input(config, &Conditioner::new(config, &plain).unwrap());
    let expected = run(&Transformer::new(config, &plain).unwrap(), &input, None).unwrap();

    let store = store(&files.source, &|w| Transformer::new(config, w).map(drop));
    for streamed in [&[1, 2, 3, 4][..], &[2, 3, 4], &[1, 3], &[4], &[]] {
        for again in [true, false] {
            let net = Transformer::new(config, &streaming(&store, streamed, again)).unwrap();
            for _ in 0..2 {
                same(&run(&net, &input, None).unwrap(), &expected);
            }
            // A run that ends in the middle leaves the ring somewhere; the next one starts from its first block.
            run(&net, &input, Some(BlockId::Single(1))).unwrap_err();
            same(&run(&net, &input, None).unwrap(), &expected);
        }
    }
}

#[test]
fn t5_and_the_conditioner_run_through_two_slots() {
    let folder = tempfile::tempdir().unwrap();
    let files = flux(folder.path());
    let ids = [vec![3, 1, 4, 1, 5], vec![9, 2, 6, 5, 3]];
    let net = &files.text_encoder_2;
    let build = |w: &Weights| T5Encoder::new(&net.config, w);
    let plain = Weights::new(Arc::clone(&net.source), DType::F32, &Device::Cpu);
    let kept = store(&net.source, &|w| build(w).map(drop));
    let blocks: Vec<usize> = (1..kept.pieces().len()).collect();
    assert!(blocks.len() > 1);
    let found = build(&streaming(&kept, &blocks, false)).unwrap().forward(&ids).unwrap();
    same(&found, &build(&plain).unwrap().forward(&ids).unwrap());

    let net = &files.transformer;
    let build = |w: &Weights| Conditioner::new(&net.config, w);
    let plain = Weights::new(Arc::clone(&net.source), DType::F32, &Device::Cpu);
    let kept = store(&net.source, &|w| build(w).map(drop));
    let pooled = noise(&[1, net.config.pooled_projection_dim], 5);
    let streamed = build(&streaming(&kept, &[1, 2, 3, 4], false)).unwrap();
    let found = streamed.precompute(&[900.0, 10.0], 3.5, &pooled).unwrap();
    let expected = build(&plain).unwrap().precompute(&[900.0, 10.0], 3.5, &pooled).unwrap();
    // The tables have no reader of their own: they are what the transformer predicts with.
    let transformer = Transformer::new(&net.config, &plain).unwrap();
    let predict = |modulation| {
        let (image, text) =
            (noise(&[1, 6, net.config.in_channels], 3), noise(&[1, 4, net.config.joint_attention_dim], 4));
        run(&transformer, &Input { image, text, modulation }, None).unwrap()
    };
    same(&predict(found), &predict(expected));
}

#[test]
fn only_blocks_stream_and_only_from_a_host_copy() {
    let folder = tempfile::tempdir().unwrap();
    let files = flux(folder.path()).transformer;
    let store = store(&files.source, &|w| Transformer::new(&files.config, w).map(drop));
    let mut parts = Parts::new(&store, &Transfer::new(&Device::Cpu).unwrap());
    parts.bring(&[1, 2, 3, 4], &|| true).unwrap();
    let error = parts.weights(&[0], true).err().unwrap().to_string();
    assert!(error.contains("piece 0 cannot be streamed"), "{error}");
    parts.bring(&[0], &|| true).unwrap();
    store.drop_host();
    let error = parts.weights(&[2], true).err().unwrap().to_string();
    assert!(error.contains("without a host copy"), "{error}");
}

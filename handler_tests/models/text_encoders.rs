//! CLIP and T5 against transformers.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use marquee::models::text_encoders::clip::{ClipConfig, ClipText};
use marquee::models::text_encoders::t5::{T5Config, T5Encoder, bucket};
use marquee::models::weights::{Probe, Weights};
use serde_json::Value;

use super::golden::{Goldens, folder, id_rows};

const BOUND: f64 = 1e-5;

#[test]
fn clip_equals_transformers_in_every_stage() {
    let goldens = Goldens::open("stages");
    let mut projected = 0;
    for case in goldens.cases("clip") {
        let component = goldens.component(&case, "encoder");
        let config: ClipConfig = component.config();
        let net = ClipText::new(&config, &component.weights(DType::F32)).unwrap();
        let out = net.forward(&id_rows(&goldens.input(&case, "ids"))).unwrap();
        goldens.close(&case, "penultimate", out.penultimate(0).unwrap(), BOUND);
        goldens.close(&case, "last_hidden_state", &out.last_hidden_state, BOUND);
        goldens.close(&case, "pooled", &out.pooled, BOUND);
        if let Some(embeds) = &out.text_embeds {
            goldens.close(&case, "text_embeds", embeds, BOUND);
            projected += 1;
        }
    }
    assert_eq!(projected, 1, "bigG has a projection, CLIP-L has none");
}

#[test]
fn t5_equals_transformers() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("t5") {
        let component = goldens.component(&case, "encoder");
        let net = T5Encoder::new(&component.config::<T5Config>(), &component.weights(DType::F32)).unwrap();
        let out = net.forward(&id_rows(&goldens.input(&case, "ids"))).unwrap();
        goldens.close(&case, "last_hidden_state", &out, BOUND);
    }
}

#[test]
fn half_precision_stays_near() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("t5") {
        let component = goldens.component(&case, "encoder");
        for (dtype, bound) in [(DType::BF16, 2e-2), (DType::F16, 3e-3)] {
            let net = T5Encoder::new(&component.config::<T5Config>(), &component.weights(dtype)).unwrap();
            let out = net.forward(&id_rows(&goldens.input(&case, "ids"))).unwrap();
            assert_eq!(out.dtype(), dtype);
            goldens.close(&case, "last_hidden_state", &out, bound);
        }
    }
}

#[test]
fn f16_sums_beyond_its_range_are_held_below_it() {
    let config = r#"{"vocab_size":8,"d_model":8,"d_kv":4,"d_ff":8,"num_layers":2,"num_heads":2,"feed_forward_proj":"gated-gelu"}"#;
    let config: T5Config = serde_json::from_str(config).unwrap();
    let probe = Arc::new(Probe::default());
    T5Encoder::new(&config, &Weights::probing(&probe)).unwrap();
    // All ones but for the token table: the first attention adds 64 times `out` to its 60000, and 65504 is the end of f16.
    let run = |out: f32| {
        let map = probe
            .expected()
            .into_iter()
            .map(|tensor| {
                let value = match tensor.key.as_str() {
                    "shared.weight" => 60000.0,
                    key if key.ends_with("SelfAttention.o.weight") => out,
                    _ => 1.0,
                };
                (tensor.key, Tensor::full(value, tensor.shape, &Device::Cpu).unwrap())
            })
            .collect();
        let net = T5Encoder::new(&config, &Weights::from_map(map, DType::F16, &Device::Cpu)).unwrap();
        let found = net.forward(&[vec![3, 5]]).unwrap().to_dtype(DType::F32).unwrap();
        found.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    // Equal channels: the last norm gives ones, unless an infinity came through.
    for out in [1.0, 200.0] {
        assert_eq!(run(out), [1.0; 16], "attention output of {out}");
    }
}

#[test]
fn t5_distances_fall_into_transformers_buckets() {
    let table: Value =
        serde_json::from_slice(&std::fs::read(folder().join("t5_buckets.json")).unwrap()).unwrap();
    let from = table["from"].as_i64().unwrap();
    for (index, expected) in table["buckets"].as_array().unwrap().iter().enumerate() {
        let distance = from + index as i64;
        assert_eq!(u64::from(bucket(distance, 32, 128)), expected.as_u64().unwrap(), "distance {distance}");
    }
}

#[test]
fn ids_that_the_encoder_cannot_know_are_refused() {
    let goldens = Goldens::open("stages");
    let case = &goldens.cases("clip")[0];
    let component = goldens.component(case, "encoder");
    let net = ClipText::new(&component.config::<ClipConfig>(), &component.weights(DType::F32)).unwrap();
    let error = |ids: &[Vec<u32>]| net.forward(ids).unwrap_err().to_string();
    assert!(error(&[vec![5, 600]]).contains("token id 600"));
    assert!(error(&[vec![5; 78]]).contains("positions for 77"));
    assert!(error(&[vec![5, 6], vec![5]]).contains("differ in length"));
    assert!(error(&[]).contains("no token ids"));
}

#[test]
fn a_config_of_another_kind_of_encoder_is_refused() {
    let error = serde_json::from_str::<ClipConfig>(r#"{"hidden_act": "relu"}"#).unwrap_err().to_string();
    assert!(error.contains("relu"), "{error}");
    let t5 = r#"{"vocab_size":8,"d_model":8,"d_kv":4,"d_ff":8,"num_layers":1,"num_heads":2,"feed_forward_proj":"relu"}"#;
    assert!(serde_json::from_str::<T5Config>(t5).unwrap_err().to_string().contains("relu"));
}

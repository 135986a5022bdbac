//! SDXL's nets and pipelines against diffusers.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use image::DynamicImage;
use marquee::models::parity;
use marquee::models::sdxl::pipeline::Control;
use marquee::models::sdxl::{ControlNet, ControlNetConfig, Unet, UnetConfig};
use marquee::models::weights::{Probe, Weights};
use serde_json::json;

#[test]
fn every_stage_of_sdxl_equals_diffusers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens/sdxl");
    let table = parity::run(&folder, &Device::Cpu).unwrap();
    assert!(table.passed(), "{table}");
    for (case, stage) in
        [("unet_981", "down.8"), ("controlnet_part", "image"), ("negative_empty", "negative_pooled")]
    {
        assert!(
            table.rows.iter().any(|row| row.case == case && row.stage == stage),
            "{case} {stage}:\n{table}"
        );
    }
}

/// Tensors and numbers of the published nets.
#[test]
fn full_size_nets_ask_for_the_published_tensors() {
    let asked = |build: &dyn Fn(&Weights)| {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe));
        let expected = probe.expected();
        let numbers: usize = expected.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        (expected.len(), numbers)
    };
    let unet = asked(&|w| drop(Unet::new(&UnetConfig::sdxl(), w).unwrap()));
    assert_eq!(unet, (1680, 2_567_463_684));
    let controlnet = asked(&|w| drop(ControlNet::new(&ControlNetConfig::sdxl(), w).unwrap()));
    assert_eq!(controlnet, (844, 1_251_014_160));
}

/// The published `unet/config.json`, but for fields that nothing depends on.
fn published() -> serde_json::Value {
    json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "class_embed_type": null,
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "encoder_hid_dim_type": null,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_attention_heads": null,
        "only_cross_attention": false,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "time_cond_proj_dim": null,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": true,
    })
}

#[test]
fn the_published_configuration_is_the_built_in_one() {
    let mut config: UnetConfig = serde_json::from_value(published()).unwrap();
    assert!(config.up_block_types.take().is_some());
    config.trunk.only_cross_attention = serde_json::Value::Null;
    assert_eq!(config, UnetConfig::sdxl());
}

#[test]
fn nets_that_would_paint_something_else_are_refused_by_field() {
    for (field, value) in [
        ("use_linear_projection", json!(false)),
        ("addition_embed_type", json!("text")),
        ("time_cond_proj_dim", json!(256)),
        ("attention_head_dim", json!([5, 10])),
        ("up_block_types", json!(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"])),
        ("projection_class_embeddings_input_dim", json!(1536)),
        ("norm_num_groups", json!(33)),
    ] {
        let mut config = published();
        config[field] = value;
        let config: UnetConfig = serde_json::from_value(config).unwrap();
        let error = Unet::new(&config, &Weights::probing(&Arc::default())).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("expected"), "{field}: {error}");
    }
}

#[test]
fn a_control_acts_in_the_steps_that_lie_wholly_in_its_range() {
    let image = DynamicImage::new_rgb8(8, 8);
    let scales = |start, end| {
        let control = Control { image: &image, scale: 0.6, start, end };
        (0..5).map(|index| control.scale_at(index, 5)).collect::<Vec<_>>()
    };
    assert_eq!(scales(0.0, 1.0), [0.6; 5]);
    assert_eq!(scales(0.2, 0.6), [0.0, 0.6, 0.6, 0.0, 0.0]);
    assert_eq!(scales(0.25, 0.7), [0.0, 0.0, 0.6, 0.0, 0.0]);
}

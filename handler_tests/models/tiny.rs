//! The tiny checkpoint through the real code path. diffusers 0.42.1 opens the written folder too, and for the first
//! prompt, size and seed below it gave the same picture in every byte.

use std::path::Path;

use candle_core::{DType, Device};
use image::RgbImage;
use marquee::models::birefnet::BiRefNet;
use marquee::models::checkpoint::{Caches, FluxCheckpoint, Replacements, open_birefnet};
use marquee::models::flux::pipeline::{Pipeline, Request, Settings, Start};
use marquee::models::tiny::{Family, TinyError, write, write_birefnet};

fn paint(folder: &Path, prompt: &str, dtype: DType) -> RgbImage {
    let caches = Caches::from_vars(|_| None);
    let checkpoint =
        FluxCheckpoint::open(&folder.to_string_lossy(), &Replacements::default(), &caches).unwrap();
    let pipeline = Pipeline::load(&checkpoint, dtype, &Device::Cpu).unwrap();
    let request = Request {
        prompt,
        negative_prompt: None,
        settings: Settings { width: 96, height: 64, steps: 3, seed: 5 },
        guidance: 3.5,
        true_cfg_scale: 1.0,
        words: 64,
        start: Start::Noise,
        padding_mask_crop: None,
    };
    pipeline.generate(&request, &mut ()).unwrap()
}

fn spread(picture: &RgbImage) -> f64 {
    let values: Vec<f64> = picture.as_raw().iter().map(|v| f64::from(*v)).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn a_written_checkpoint_paints_and_listens_to_its_prompt() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), Family::Dev).unwrap();
    let first = paint(folder.path(), "a bottle of water on the table", DType::F32);
    assert_eq!(first.dimensions(), (96, 64));
    assert!(spread(&first) > 5.0, "a flat picture proves nothing: {}", spread(&first));
    let other = paint(folder.path(), "the old harbour at night, rain", DType::F32);
    assert_ne!(first, other, "the prompt reaches the picture");

    // Written again, elsewhere: the same weights, the same picture.
    let twin = tempfile::tempdir().unwrap();
    write(twin.path(), Family::Dev).unwrap();
    assert_eq!(first, paint(twin.path(), "a bottle of water on the table", DType::F32));
}

#[test]
fn schnell_has_no_guidance_and_still_paints() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), Family::Schnell).unwrap();
    let picture = paint(folder.path(), "a bottle", DType::BF16);
    assert!(spread(&picture) > 5.0);
    let config = std::fs::read_to_string(folder.path().join("transformer/config.json")).unwrap();
    assert!(config.contains(r#""guidance_embeds": false"#));
}

#[test]
fn a_tiny_birefnet_cuts_out_and_leaves_nothing_at_its_start_value() {
    let folder = tempfile::tempdir().unwrap();
    write_birefnet(folder.path()).unwrap();
    let files = open_birefnet(&folder.path().to_string_lossy(), &Caches::from_vars(|_| None)).unwrap();
    let net = BiRefNet::new(&files.config, &files.weights(DType::F32, &Device::Cpu)).unwrap();
    let picture = RgbImage::from_fn(90, 70, |x, y| image::Rgb([(x * 2) as u8, (y * 3) as u8, (x ^ y) as u8]));
    let mask = net.segment(&picture, &mut |_| Ok(())).unwrap();
    assert_eq!(mask.dimensions(), (90, 70));
    let (least, most) = (mask.iter().min().unwrap(), mask.iter().max().unwrap());
    assert!(most - least > 20, "a flat mask: {least} to {most}");

    let tensors =
        candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let values = |ending: &'static str| {
        tensors.iter().filter(move |(key, _)| key.ends_with(ending)).map(|(key, tensor)| {
            let values =
                tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            (key, values)
        })
    };
    // What an untrained net has there: no offsets, weights of a half, norms that change nothing.
    for (ending, start) in [
        ("offset_conv.weight", 0.0),
        ("offset_conv.bias", 0.0),
        ("modulator_conv.weight", 0.0),
        ("running_mean", 0.0),
        ("running_var", 1.0),
    ] {
        assert!(values(ending).count() >= 20, "{ending}");
        for (key, values) in values(ending) {
            let apart = values.iter().filter(|value| (**value - start).abs() > 1e-4).count();
            assert!(apart * 10 >= values.len() * 9, "{key}: {apart} of {} moved", values.len());
        }
    }
    assert!(values("running_var").all(|(_, values)| values.iter().all(|value| *value > 0.0)));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = write(file.path(), Family::Dev).unwrap_err();
    assert!(matches!(error, TinyError::Write { .. }), "{error}");
    assert!(error.to_string().contains("model_index.json"), "{error}");
    assert!(matches!(write_birefnet(file.path()).unwrap_err(), TinyError::Write { .. }));
}

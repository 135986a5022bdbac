//! The whole path on a tiny checkpoint in the real layout: tokenizers, loader, all nets, sampler, pixels.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, Luma, Rgb, RgbImage};
use marquee::models::checkpoint::{Caches, Replacements};
use marquee::models::flux::pipeline::{PipelineError, Watch};
use marquee::models::generate::{GenerateError, Mode, Options, generate};
use marquee::models::tiny::{self, Family};

fn options(model: &Path, mode: Mode) -> Options {
    Options {
        model: model.to_str().unwrap().to_owned(),
        replacements: Replacements::default(),
        caches: Caches::default(),
        mode,
        prompt: "a red fox on a hill".to_owned(),
        negative_prompt: None,
        true_cfg_scale: 1.0,
        width: 64,
        height: 48,
        steps: Some(4),
        guidance: None,
        strength: None,
        seed: 7,
        max_sequence_length: Some(32),
        image: None,
        mask: None,
        padding_mask_crop: None,
    }
}

/// The error of a request that must not make a picture.
fn refusal(options: &Options) -> String {
    run(options).map(drop).unwrap_err().to_string()
}

fn run(options: &Options) -> Result<RgbImage, GenerateError> {
    generate(options, DType::F32, &Device::Cpu, &mut ())
}

/// A checkpoint, a picture of 80 x 60 and a mask of its right half.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), Family::Dev).unwrap();
    let image = RgbImage::from_fn(80, 60, |x, y| Rgb([x as u8 * 3, y as u8 * 4, 128]));
    image.save(folder.path().join("image.png")).unwrap();
    let mask = GrayImage::from_fn(80, 60, |x, _| Luma([if x >= 40 { 255 } else { 0 }]));
    mask.save(folder.path().join("mask.png")).unwrap();
    folder
}

#[test]
fn each_mode_makes_a_picture_that_its_inputs_decide() {
    let folder = folder();
    let text = options(folder.path(), Mode::TextToImage);
    let picture = run(&text).unwrap();
    assert_eq!(picture.dimensions(), (64, 48));
    assert_eq!(run(&text).unwrap(), picture, "the same request gives the same picture");
    for other in [
        Options { seed: 8, ..text.clone() },
        Options { prompt: "a glass of water".to_owned(), ..text.clone() },
        Options { guidance: Some(9.0), ..text.clone() },
        Options { negative_prompt: Some("blur".to_owned()), true_cfg_scale: 3.0, ..text.clone() },
    ] {
        assert_ne!(run(&other).unwrap(), picture, "{other:?}");
    }
    let without = Options { negative_prompt: Some("blur".to_owned()), ..text.clone() };
    assert_eq!(run(&without).unwrap(), picture, "a negative prompt acts with a scale above 1 only");

    let image = Some(folder.path().join("image.png"));
    let mask = Some(folder.path().join("mask.png"));
    let from_image = Options { image, ..options(folder.path(), Mode::ImageToImage) };
    assert_eq!(run(&from_image).unwrap().dimensions(), (64, 48));
    let inpaint = Options { mode: Mode::Inpaint, mask, ..from_image };
    assert_eq!(run(&inpaint).unwrap().dimensions(), (64, 48));
    let around = Options { padding_mask_crop: Some(4), ..inpaint };
    let around = run(&around).unwrap();
    assert_eq!(around.dimensions(), (80, 60), "pasted back into the picture");
    assert_eq!(around.get_pixel(10, 10), &Rgb([30, 40, 128]), "untouched outside the mask");
}

#[test]
fn modes_refuse_what_they_cannot_use() {
    let folder = folder();
    let image = Some(folder.path().join("image.png"));
    let text = options(folder.path(), Mode::TextToImage);
    let error = refusal(&Options { image: image.clone(), ..text.clone() });
    assert_eq!(error, "TextToImage takes neither image nor mask");
    let error = refusal(&Options { mode: Mode::Inpaint, image: image.clone(), ..text.clone() });
    assert_eq!(error, "Inpaint takes an image and a mask");
    let error = refusal(&Options { mode: Mode::ImageToImage, image, strength: Some(0.0), ..text.clone() });
    assert!(error.contains("strength"), "{error}");
    let error = refusal(&Options { width: 8, ..text.clone() });
    assert!(error.contains("expected at least 16 x 16"), "{error}");
    let error = refusal(&Options { model: "nobody/nothing".to_owned(), ..text });
    assert!(error.contains("hf download nobody/nothing"), "{error}");
    assert!("sketch".parse::<Mode>().is_err());
    assert_eq!("img2img".parse::<Mode>().unwrap(), Mode::ImageToImage);
}

/// Breaks after `limit` steps.
struct Stopper {
    limit: u32,
    seen: Vec<(u32, u32)>,
}

impl Watch for Stopper {
    fn step(&mut self, done: u32, total: u32, _: &Tensor) -> ControlFlow<()> {
        self.seen.push((done, total));
        if done == self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_watcher_sees_every_step_and_may_end_the_run() {
    let folder = folder();
    let text = options(folder.path(), Mode::TextToImage);
    let mut all = Stopper { limit: 99, seen: Vec::new() };
    generate(&text, DType::F32, &Device::Cpu, &mut all).unwrap();
    assert_eq!(all.seen, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]);

    let mut two = Stopper { limit: 2, seen: Vec::new() };
    let error = generate(&text, DType::F32, &Device::Cpu, &mut two).unwrap_err();
    assert!(
        matches!(error, GenerateError::Pipeline(PipelineError::Stopped { step: 3, steps: 4 })),
        "{error}"
    );
    assert_eq!(two.seen, [(0, 4), (1, 4), (2, 4)]);
}

#[test]
fn half_precision_runs_on_a_cpu_and_stays_near() {
    let folder = folder();
    let text = options(folder.path(), Mode::TextToImage);
    let exact = run(&text).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let half = generate(&text, dtype, &Device::Cpu, &mut ()).unwrap();
        let off: f64 = half.iter().zip(exact.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let mean = off / half.len() as f64;
        assert!(mean > 0.0 && mean < 16.0, "{dtype:?}: mean difference {mean}");
    }
}

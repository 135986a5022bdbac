//! SDXL from disk: both layouts through the real code path.
//!
//! diffusers 0.42.1 opens the written folder too; for the first prompt below it gave the same picture, and with a
//! ControlNet one byte of 18432 differed, by 1. The names in the single file were accepted by diffusers' own
//! conversion (`scripts/make_goldens_sdxl.py`).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::safetensors::{load, save};
use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, Rgb, RgbImage};
use marquee::models::checkpoint::{Caches, CheckpointError, SdxlCheckpoint, SdxlControlNet};
use marquee::models::sdxl::pipeline::{
    Control, ControlNetTextToImage, Pipeline, PipelineError, Settings, TextToImage, Watch,
};
use marquee::models::tiny::{write_sdxl, write_sdxl_controlnet};

fn open(model: &Path) -> Result<SdxlCheckpoint, CheckpointError> {
    SdxlCheckpoint::open(&model.to_string_lossy(), None, &Caches::default())
}

fn request(prompt: &str) -> TextToImage<'_> {
    TextToImage {
        prompt,
        negative_prompt: None,
        settings: Settings { width: 96, height: 64, steps: 3, seed: 5 },
        guidance: 5.0,
        framing: None,
    }
}

fn paint(model: &Path, dtype: DType) -> RgbImage {
    let pipeline = Pipeline::load(&open(model).unwrap(), None, dtype, &Device::Cpu).unwrap();
    pipeline.text_to_image(&request("the old harbour at night"), &mut ()).unwrap()
}

fn furthest(one: &RgbImage, other: &RgbImage) -> u8 {
    one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Every net of a diffusers folder in one file under the published names, with what else the published file holds.
fn single_file(folder: &Path, path: &Path) {
    let names: HashMap<String, HashMap<String, Vec<String>>> =
        serde_json::from_slice(include_bytes!("../goldens/sdxl_single_file.json")).unwrap();
    let mut out: HashMap<String, Tensor> = HashMap::new();
    for (net, file) in [
        ("unet", "unet/diffusion_pytorch_model.safetensors"),
        ("vae", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder_2", "text_encoder_2/model.safetensors"),
    ] {
        let tensors = load(folder.join(file), &Device::Cpu).unwrap();
        let mut left: HashMap<&str, &Tensor> = tensors
            .iter()
            .map(|(key, tensor)| (key.strip_prefix("text_model.").unwrap_or(key), tensor))
            .collect();
        for (name, parts) in &names[net] {
            let parts: Vec<&Tensor> = parts.iter().map(|part| left.remove(part.as_str()).unwrap()).collect();
            let mut joined = Tensor::cat(&parts, 0).unwrap();
            if name.ends_with(".text_projection") {
                joined = joined.t().unwrap().contiguous().unwrap();
            }
            if name.contains(".attn_1.") && joined.rank() == 2 {
                joined = joined.unsqueeze(2).unwrap().unsqueeze(3).unwrap();
            }
            out.insert(name.clone(), joined);
        }
        assert!(left.is_empty(), "{net}: {:?}", left.keys());
    }
    for (key, tensor) in load(folder.join("text_encoder/model.safetensors"), &Device::Cpu).unwrap() {
        out.insert(format!("conditioner.embedders.0.transformer.{key}"), tensor);
    }
    let number = Tensor::new(4.6f32, &Device::Cpu).unwrap();
    out.insert("conditioner.embedders.1.model.logit_scale".to_owned(), number.clone());
    out.insert(
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids".to_owned(),
        Tensor::arange(0i64, 77, &Device::Cpu).unwrap(),
    );
    out.insert("denoiser.sigmas".to_owned(), number);
    save(&out, path).unwrap();
}

#[test]
fn folder_and_single_file_paint_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    let first = paint(folder.path(), DType::F32);
    assert_eq!(first.dimensions(), (96, 64));
    let file = folder.path().join("sd_xl_base_1.0.safetensors");
    single_file(folder.path(), &file);
    assert_eq!(first, paint(&file, DType::F32));
}

#[test]
fn half_precision_stays_near() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    let exact = paint(folder.path(), DType::F32);
    let half = paint(folder.path(), DType::F16);
    assert!(furthest(&exact, &half) <= 12, "{}", furthest(&exact, &half));
    assert_ne!(exact, half, "the dtype reaches the nets");
}

#[test]
fn a_control_picture_reaches_the_picture_and_its_options_act() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    let controls = tempfile::tempdir().unwrap();
    write_sdxl_controlnet(controls.path()).unwrap();
    let net = SdxlControlNet::open(&controls.path().to_string_lossy(), &Caches::default()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, Some(&net), DType::F32, &Device::Cpu).unwrap();
    let text = TextToImage { negative_prompt: Some("rain"), ..request("a bottle") };
    let edges =
        DynamicImage::ImageRgb8(RgbImage::from_fn(
            96,
            64,
            |x, _| Rgb([if x % 16 == 0 { 255 } else { 0 }; 3]),
        ));
    let run = |scale, start, end| {
        let control = Control { image: &edges, scale, start, end };
        pipeline.controlnet_text_to_image(&ControlNetTextToImage { text: text.clone(), control }, &mut ())
    };
    let plain = pipeline.text_to_image(&text, &mut ()).unwrap();
    let full = run(1.0, 0.0, 1.0).unwrap();
    assert_ne!(plain, full);
    assert_eq!(plain, run(0.0, 0.0, 1.0).unwrap(), "a scale of 0 is off");
    assert_ne!(full, run(1.0, 0.0, 0.5).unwrap());
    let error = run(1.0, 0.5, 0.5).unwrap_err().to_string();
    assert!(error.contains("0 <= start < end <= 1"), "{error}");

    let without = Pipeline::load(&checkpoint, None, DType::F32, &Device::Cpu).unwrap();
    let control = Control { image: &edges, scale: 1.0, start: 0.0, end: 1.0 };
    let error =
        without.controlnet_text_to_image(&ControlNetTextToImage { text, control }, &mut ()).unwrap_err();
    assert!(error.to_string().contains("no ControlNet"), "{error}");
}

#[test]
fn an_empty_negative_prompt_is_not_none() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    let pipeline = Pipeline::load(&open(folder.path()).unwrap(), None, DType::F32, &Device::Cpu).unwrap();
    let paint = |negative_prompt, guidance| {
        let request = TextToImage { negative_prompt, guidance, ..request("a bottle") };
        pipeline.text_to_image(&request, &mut ()).unwrap()
    };
    assert_ne!(paint(None, 5.0), paint(Some(""), 5.0));
    assert_eq!(paint(None, 1.0), paint(Some("rain"), 1.0), "without guidance there is nothing to avoid");
}

struct StopAfter(u32, Vec<(u32, u32)>);

impl Watch for StopAfter {
    fn step(&mut self, done: u32, total: u32, _: &Tensor) -> ControlFlow<()> {
        self.1.push((done, total));
        if done == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_run_reports_each_step_and_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    let pipeline = Pipeline::load(&open(folder.path()).unwrap(), None, DType::F32, &Device::Cpu).unwrap();
    let mut watch = StopAfter(1, Vec::new());
    let stopped = pipeline.text_to_image(&request("a bottle"), &mut watch);
    assert!(matches!(stopped, Err(PipelineError::Stopped { step: 2, steps: 3 })), "{stopped:?}");
    assert_eq!(watch.1, [(0, 3), (1, 3)]);
    let mut request = request("a bottle");
    request.settings.width = 100;
    let error = pipeline.text_to_image(&request, &mut ()).unwrap_err().to_string();
    assert!(error.contains("100 x 64") && error.contains("multiples of 8"), "{error}");
}

#[test]
fn defects_of_all_nets_are_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write_sdxl(folder.path()).unwrap();
    for (file, key) in [
        ("unet/diffusion_pytorch_model.safetensors", "add_embedding.linear_1.weight"),
        ("text_encoder_2/model.safetensors", "text_projection.weight"),
    ] {
        let path = folder.path().join(file);
        let mut tensors = load(&path, &Device::Cpu).unwrap();
        let tensor = tensors.remove(key).unwrap();
        tensors.insert("stray".to_owned(), tensor);
        save(&tensors, &path).unwrap();
    }
    let error = open(folder.path()).err().unwrap().to_string();
    for part in ["add_embedding.linear_1.weight", "text_projection.weight", "stray", "4 problems"] {
        assert!(error.contains(part), "{part}: {error}");
    }

    let other = folder.path().join("other.safetensors");
    save(&HashMap::from([("x", Tensor::new(1f32, &Device::Cpu).unwrap())]), &other).unwrap();
    let error = open(&other).err().unwrap().to_string();
    assert!(error.contains("SDXL in one file"), "{error}");
}

#[test]
fn a_vae_can_be_replaced_and_brings_its_own_rule() {
    let (folder, twin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_sdxl(folder.path()).unwrap();
    write_sdxl(twin.path()).unwrap();
    let vae = twin.path().join("vae");
    let config = std::fs::read_to_string(vae.join("config.json")).unwrap();
    std::fs::write(
        vae.join("config.json"),
        config.replace("\"force_upcast\": true", "\"force_upcast\": false"),
    )
    .unwrap();
    let own = open(folder.path()).unwrap().vae.config;
    assert_eq!(own.safe_dtype(DType::F16), DType::F32);
    for place in [vae.clone(), vae.join("diffusion_pytorch_model.safetensors")] {
        let model = folder.path().to_string_lossy();
        let replaced =
            SdxlCheckpoint::open(&model, Some(&place.to_string_lossy()), &Caches::default()).unwrap();
        assert_eq!(replaced.vae.config.safe_dtype(DType::F16), DType::F16, "{}", place.display());
    }
}

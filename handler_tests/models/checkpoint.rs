//! Every layout opens to the same numbers; every defect is named before anything is loaded.

use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use marquee::models::checkpoint::{Caches, CheckpointError, FluxCheckpoint, Replacements, locate};
use marquee::models::flux::{Conditioner, Transformer};
use marquee::models::rng::Generator;
use marquee::models::text_encoders::t5::T5Encoder;
use marquee::models::vae::Vae;
use marquee::models::weights::{Problem, Weights};

use super::model_folder::{Map, Nets, save, shard, to_bfl, vae_to_bfl};

fn open(folder: &Path) -> Result<FluxCheckpoint, CheckpointError> {
    FluxCheckpoint::open(folder.to_str().unwrap(), &Replacements::default(), &Caches::default())
}

fn draw(seed: u64, shape: &[usize]) -> Tensor {
    Generator::new(seed).randn(shape, DType::F32, &Device::Cpu).unwrap()
}

/// One prediction of a checkpoint's transformer.
fn predict(checkpoint: &FluxCheckpoint) -> Tensor {
    let config = &checkpoint.transformer.config;
    let weights = checkpoint.transformer.weights(DType::F32, &Device::Cpu);
    let net = Transformer::new(config, &weights).unwrap();
    let conditioner = Conditioner::new(config, &weights).unwrap();
    let modulation = conditioner.precompute(&[700.0], 3.5, &draw(1, &[1, 32])).unwrap();
    let rope = net.rope(5, 2, 3, &Device::Cpu).unwrap();
    let (image, text) = (draw(2, &[1, 6, 64]), draw(3, &[1, 5, 32]));
    net.forward(&image, &text, modulation.step(0), &rope, &mut |_| Ok(())).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    let miss: f64 = values(found).iter().zip(values(expected)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = values(expected).iter().map(|b| f64::from(*b).powi(2)).sum();
    (miss / size).sqrt()
}

fn problems(result: Result<FluxCheckpoint, CheckpointError>) -> Vec<Problem> {
    match result {
        Err(CheckpointError::Tensors { problems }) => problems,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn shards_and_the_text_model_prefix_change_nothing() {
    let nets = Nets::open();
    let (plain, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    nets.write(plain.path(), |_, _| {});
    nets.write(other.path(), |role, tensors| {
        if role == "text_encoder" {
            *tensors = tensors.drain().map(|(key, tensor)| (format!("text_model.{key}"), tensor)).collect();
        }
        if role == "text_encoder_2" {
            let table = tensors["shared.weight"].clone();
            tensors.insert("encoder.embed_tokens.weight".to_owned(), table);
        }
    });
    for role in ["transformer", "text_encoder_2"] {
        shard(&other.path().join(role));
    }
    let (plain, other) = (open(plain.path()).unwrap(), open(other.path()).unwrap());
    assert_eq!(values(&predict(&plain)), values(&predict(&other)));
}

#[test]
fn black_forest_labs_files_predict_the_same_bits() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    let expected = open(folder.path()).unwrap();
    let config = nets.config("transformer").to_string();
    for prefix in ["", "model.diffusion_model."] {
        let bfl = to_bfl(&nets.tensors("transformer"));
        let bfl: Map = bfl.into_iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor)).collect();
        let file = folder.path().join("flux1-tiny.safetensors");
        save(&bfl, &file);
        // Heads of 16 need the rotary channels from a config.json.
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        let vae = folder.path().join("ae.safetensors");
        save(&vae_to_bfl(&nets.tensors("vae")), &vae);
        let replacements = Replacements { vae: Some(vae), ..Replacements::default() };
        let found = FluxCheckpoint::open(file.to_str().unwrap(), &replacements, &Caches::default()).unwrap();
        assert_eq!(values(&predict(&found)), values(&predict(&expected)));
        assert_eq!(found.transformer.config.num_single_layers, 1);

        let latents = draw(4, &[1, 16, 2, 2]);
        let [one, other] = [&found, &expected].map(|checkpoint| {
            let weights = checkpoint.vae.weights(DType::F32, &Device::Cpu);
            Vae::new(&checkpoint.vae.config, &weights).unwrap().decode(&latents).unwrap()
        });
        assert_eq!(values(&one), values(&other));
    }
}

#[test]
fn scaled_fp8_predicts_what_its_rounded_weights_do() {
    let nets = Nets::open();
    let (folder, rounded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scale = 0.25f64;
    let is_matrix = |role: &str, key: &str, tensor: &Tensor| {
        role == "transformer" && key.ends_with("weight") && tensor.rank() == 2
    };
    let fp8 = |tensor: &Tensor| (tensor / scale).unwrap().to_dtype(DType::F8E4M3).unwrap();
    nets.write(folder.path(), |role, tensors| {
        let matrices: Vec<String> = tensors
            .iter()
            .filter(|(key, tensor)| is_matrix(role, key, tensor))
            .map(|(key, _)| key.clone())
            .collect();
        for key in matrices {
            let small = fp8(&tensors[&key]);
            tensors.insert(
                key.replace(".weight", ".scale_weight"),
                Tensor::new(scale as f32, &Device::Cpu).unwrap(),
            );
            tensors.insert(key, small);
        }
    });
    nets.write(rounded.path(), |role, tensors| {
        for (key, tensor) in tensors {
            if is_matrix(role, key, tensor) {
                *tensor = (fp8(tensor).to_dtype(DType::F32).unwrap() * scale).unwrap();
            }
        }
    });
    let (found, expected) = (open(folder.path()).unwrap(), open(rounded.path()).unwrap());
    assert_eq!(values(&predict(&found)), values(&predict(&expected)));
}

fn write_gguf(tensors: &Map, path: &Path, architecture: &str) {
    let quantised: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(key, tensor)| {
            let blocks = tensor.rank() == 2 && tensor.dim(1).unwrap() % 32 == 0;
            let dtype = if blocks { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            (key.clone(), QTensor::quantize(tensor, dtype).unwrap())
        })
        .collect();
    let list: Vec<(&str, &QTensor)> = quantised.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    let name = gguf_file::Value::String(architecture.to_owned());
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &[("general.architecture", &name)], &list).unwrap();
}

#[test]
fn gguf_opens_and_stays_near_the_dense_nets() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    let dense = open(folder.path()).unwrap();
    std::fs::write(folder.path().join("config.json"), nets.config("transformer").to_string()).unwrap();
    let transformer = folder.path().join("flux1-tiny-Q8_0.gguf");
    write_gguf(&to_bfl(&nets.tensors("transformer")), &transformer, "flux");
    let t5: Map = nets
        .tensors("text_encoder_2")
        .into_iter()
        .map(|(key, tensor)| {
            let key = key
                .replace("shared.weight", "token_embd.weight")
                .replace("encoder.final_layer_norm", "enc.output_norm")
                .replace("encoder.block", "enc.blk")
                .replace("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b")
                .replace("layer.0.SelfAttention.", "attn_")
                .replace("layer.0.layer_norm", "attn_norm")
                .replace("layer.1.layer_norm", "ffn_norm")
                .replace("layer.1.DenseReluDense.wi_0", "ffn_gate")
                .replace("layer.1.DenseReluDense.wi_1", "ffn_up")
                .replace("layer.1.DenseReluDense.wo", "ffn_down");
            (key, tensor)
        })
        .collect();
    let encoder = folder.path().join("t5-Q8_0.gguf");
    write_gguf(&t5, &encoder, "t5encoder");
    let replacements = Replacements { text_encoder_2: Some(encoder), ..Replacements::default() };
    let found =
        FluxCheckpoint::open(transformer.to_str().unwrap(), &replacements, &Caches::default()).unwrap();

    let error = relative_error(&predict(&found), &predict(&dense));
    assert!(error > 1e-6, "the blocks were not used");
    assert!(error < 0.02, "relative error {error}");
    let [one, other] = [&found, &dense].map(|checkpoint| {
        let net = &checkpoint.text_encoder_2;
        let weights = net.weights(DType::F32, &Device::Cpu);
        T5Encoder::new(&net.config, &weights).unwrap().forward(&[vec![5, 9, 200, 1, 0, 0]]).unwrap()
    });
    let error = relative_error(&one, &other);
    assert!(error > 1e-6 && error < 0.02, "relative error {error}");
}

#[test]
fn a_fused_layer_of_q4k_rows_equals_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.gguf");
    let parts: Vec<(String, QTensor)> = (0..3u64)
        .map(|seed| {
            let matrix = draw(seed, &[24, 512]);
            (format!("part{seed}.weight"), QTensor::quantize(&matrix, GgmlDType::Q4K).unwrap())
        })
        .collect();
    let list: Vec<(&str, &QTensor)> = parts.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&file).unwrap(), &[], &list).unwrap();
    let source = marquee::models::weights::Gguf::open(&file).unwrap();
    let weights = Weights::new(std::sync::Arc::new(source), DType::F32, &Device::Cpu);
    let x = draw(9, &[1, 7, 512]);
    let run = |layer: marquee::models::ops::Linear| candle_core::Module::forward(&layer, &x).unwrap();
    let fused =
        run(weights.fused_linear(512, &[("part0", 24), ("part1", 24), ("part2", 24)], false).unwrap());
    let alone: Vec<Tensor> =
        (0..3).map(|part| run(weights.pp(format!("part{part}")).linear(512, 24, false).unwrap())).collect();
    assert_eq!(values(&fused), values(&Tensor::cat(&alone, 2).unwrap()));
}

#[test]
fn every_defect_of_every_net_is_in_one_report() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |role, tensors| match role {
        "transformer" => {
            tensors.remove("proj_out.bias").unwrap();
            tensors.insert("x_embedder.bias".to_owned(), draw(1, &[31]));
            tensors.insert("lora_up.weight".to_owned(), draw(1, &[2, 2]));
        }
        "vae" => {
            let ids = Tensor::zeros(3, DType::I64, &Device::Cpu).unwrap();
            tensors.insert("decoder.conv_out.bias".to_owned(), ids);
        }
        _ => {}
    });
    let result = open(folder.path());
    let text = result.as_ref().err().unwrap().to_string();
    let problems = problems(result);
    let found: Vec<(&str, &str, &str)> =
        problems.iter().map(|p| (p.tensor.as_str(), p.expected.as_str(), p.found.as_str())).collect();
    assert_eq!(
        found,
        [
            ("x_embedder.bias", "[32] of floats or GGML blocks", "[31]"),
            ("proj_out.bias", "[64] of floats or GGML blocks", "no such tensor"),
            ("lora_up.weight", "no such tensor", "[2, 2] f32"),
            ("decoder.conv_out.bias", "[3] of floats or GGML blocks", "i64"),
        ]
    );
    assert!(problems[0].file.ends_with("transformer/model.safetensors"), "{}", problems[0].file);
    assert!(problems[3].file.ends_with("vae/model.safetensors"), "{}", problems[3].file);
    assert!(text.starts_with("4 problems in the checkpoint:\n"), "{text}");
}

#[test]
fn files_cut_short_are_named_with_their_tensors() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    let file = folder.path().join("text_encoder/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let cut = problems(open(folder.path()));
    assert_eq!(cut.len(), 1, "{cut:?}");
    assert!(cut[0].file.ends_with("text_encoder/model.safetensors"));
    assert!(cut[0].found.contains("cut short"), "{}", cut[0]);

    for (bytes, expected) in [
        (&b"1234"[..], "header: expected at least 8 bytes"),
        (&b"\x09\0\0\0\0\0\0\0{"[..], "header: expected a length"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let report = open(folder.path()).err().unwrap().to_string();
        assert!(report.contains(expected), "{report}");
    }

    let gguf = folder.path().join("cut.gguf");
    write_gguf(&nets.tensors("transformer"), &gguf, "flux");
    let bytes = std::fs::read(&gguf).unwrap();
    std::fs::write(&gguf, &bytes[..bytes.len() / 2]).unwrap();
    let cut = marquee::models::weights::Gguf::open(&gguf).err().unwrap();
    assert!(cut.len() > 1 && cut.iter().all(|problem| problem.found.contains("cut short")), "{cut:?}");

    // One tensor whose claimed sizes multiply past 64 bits: version 3, 1 tensor, no metadata, "w", 3 dimensions, F32.
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    for number in [1u64, 0, 1] {
        header.extend(number.to_le_bytes());
    }
    header.push(b'w');
    header.extend(3u32.to_le_bytes());
    for dim in [1u64 << 40, 1 << 40, 2] {
        header.extend(dim.to_le_bytes());
    }
    header.extend(0u32.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    std::fs::write(&gguf, header).unwrap();
    let claimed = marquee::models::weights::Gguf::open(&gguf).err().unwrap();
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    assert!(claimed[0].found.contains("cut short"), "{}", claimed[0]);
}

#[test]
fn a_missing_shard_is_named() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    shard(&folder.path().join("transformer"));
    std::fs::remove_file(folder.path().join("transformer/model-1.safetensors")).unwrap();
    let missing = problems(open(folder.path()));
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].file.ends_with("transformer/model-1.safetensors"), "{}", missing[0]);
}

#[test]
fn a_folder_of_another_model_says_so() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    let other = r#"{"_class_name": "UNet2DConditionModel"}"#;
    std::fs::write(folder.path().join("transformer/config.json"), other).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(
        error.contains("expected _class_name FluxTransformer2DModel, found UNet2DConditionModel"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_contradicts_itself_says_so() {
    let nets = Nets::open();
    let folder = tempfile::tempdir().unwrap();
    nets.write(folder.path(), |_, _| {});
    let mut config = nets.config("transformer").clone();
    config["axes_dims_rope"] = serde_json::json!([4, 4, 4]);
    std::fs::write(folder.path().join("transformer/config.json"), config.to_string()).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("axes_dims_rope [4, 4, 4]: expected even numbers that sum to"), "{error}");
}

#[test]
fn hub_ids_are_found_in_caches_and_missing_ones_say_how_to_fetch() {
    let nets = Nets::open();
    let root = tempfile::tempdir().unwrap();
    let caches = Caches { roots: vec![root.path().join("empty"), root.path().join("hub")] };
    let repository = root.path().join("hub/models--org--tiny");
    let snapshot = repository.join("snapshots/0123abcd");
    nets.write(&snapshot, |_, _| {});

    let open = || FluxCheckpoint::open("org/tiny", &Replacements::default(), &caches);
    assert!(open().is_ok(), "the only snapshot counts");
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "0123abcd\n").unwrap();
    assert!(open().is_ok());
    std::fs::write(repository.join("refs/main"), "ffff").unwrap();
    let error = open().err().unwrap().to_string();
    assert!(error.contains("snapshots/ffff: expected the snapshot that refs/main names"), "{error}");

    let error = locate("org/other", &caches).unwrap_err().to_string();
    assert!(error.contains("hub/models--org--other") && error.contains("hf download org/other"), "{error}");
    let error = locate("../nowhere/at/all", &caches).unwrap_err().to_string();
    assert!(error.contains("Hub id"), "{error}");
}

#[test]
fn the_platforms_cache_is_searched_after_the_users() {
    let caches = Caches::from_vars(|name| (name == "HF_HOME").then(|| "/data/hf".to_owned()));
    let roots: Vec<_> = caches.roots.iter().map(|root| root.to_str().unwrap()).collect();
    assert_eq!(roots, ["/data/hf/hub", "/runpod-volume/huggingface-cache/hub"]);
}

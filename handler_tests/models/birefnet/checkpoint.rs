//! The key list, and checkpoints in the published layout.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use marquee::models::birefnet::{BiRefNet, BiRefNetConfig, PatchOrder, write_random_checkpoint};
use marquee::models::checkpoint::{Caches, CheckpointError, NetFiles, open_birefnet};
use marquee::models::weights::{Expected, Probe, Weights};

use super::{Golden, floats, randn};

fn expected(config: &BiRefNetConfig) -> Vec<Expected> {
    let probe = Arc::new(Probe::default());
    BiRefNet::new(config, &Weights::probing(&probe)).unwrap();
    probe.expected()
}

fn tiny() -> BiRefNetConfig {
    BiRefNetConfig { size: 64, ..Golden::open().config }
}

#[test]
fn the_net_asks_for_exactly_the_originals_weights() {
    let golden = Golden::open();
    let asked: HashSet<(String, Vec<usize>)> =
        expected(&golden.config).into_iter().map(|tensor| (tensor.key, tensor.shape)).collect();
    let stored: HashSet<(String, Vec<usize>)> =
        golden.weights.iter().map(|weight| (weight.key.clone(), weight.shape.clone())).collect();
    let difference: Vec<_> = asked.symmetric_difference(&stored).collect();
    assert!(difference.is_empty(), "{difference:?}");
}

/// The published model: 754 entries; 220.18 million parameters, the encoder's 195.20 of them.
#[test]
fn the_published_size_has_the_published_numbers() {
    let config = BiRefNetConfig::default();
    let asked = expected(&config);
    let count = |keep: &dyn Fn(&Expected) -> bool| -> usize {
        asked.iter().filter(|tensor| keep(tensor)).map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let statistic = |tensor: &Expected| tensor.key.contains(".running_");
    // Heads of training: 1536 + 768 + 384 weights and 3 biases; 3 x (16 + 1).
    let training = 1536 + 768 + 384 + 3 + 3 * 17;
    assert_eq!(count(&|tensor| !statistic(tensor)) + training, 220_176_498);
    assert_eq!(count(&|tensor| tensor.key.starts_with("bb.")), 195_201_204);
    let norms = asked.iter().filter(|tensor| tensor.key.ends_with(".running_mean")).count();
    assert_eq!(asked.len() + norms + config.backbone.blocks() + 12, 754);
    for (key, shape) in [
        ("bb.layers.0.blocks.0.attn.relative_position_bias_table", vec![529, 6]),
        ("bb.layers.0.downsample.reduction.weight", vec![384, 768]),
        ("squeeze_module.0.conv_in.weight", vec![64, 5760, 3, 3]),
        ("decoder.ipt_blk5.conv1.weight", vec![64, 3072, 3, 3]),
        ("decoder.decoder_block4.conv_in.weight", vec![64, 3456, 3, 3]),
        ("decoder.decoder_block1.conv_out.weight", vec![192, 64, 3, 3]),
        ("decoder.lateral_block2.conv.weight", vec![384, 384, 1, 1]),
        ("decoder.conv_out1.0.weight", vec![1, 240, 1, 1]),
    ] {
        assert!(asked.contains(&Expected { key: key.to_owned(), shape: shape.clone() }), "{key} {shape:?}");
    }
}

#[test]
fn a_random_checkpoint_has_the_published_layout_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny();
    write_random_checkpoint(&config, DType::F16, 5, folder.path()).unwrap();
    let text = std::fs::read(folder.path().join("config.json")).unwrap();
    assert_eq!(serde_json::from_slice::<BiRefNetConfig>(&text).unwrap(), config);

    let map = candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let asked: HashSet<String> = expected(&config).into_iter().map(|tensor| tensor.key).collect();
    let extra: Vec<&String> = map.keys().filter(|key| !asked.contains(*key)).collect();
    assert!(extra.iter().all(|key| BiRefNet::ignores(key)), "{extra:?}");
    assert!(!asked.iter().any(|key| BiRefNet::ignores(key)));
    // The published depths have 16 blocks more, of 14 entries each.
    assert_eq!(map.len(), 754 - 16 * 14);

    let files = open(folder.path()).unwrap();
    assert_eq!(files.config, config);
    let net = BiRefNet::new(&files.config, &files.weights(DType::F32, &Device::Cpu)).unwrap();
    let logits = floats(&net.logits(&randn(&[1, 3, 64, 64], 9), &mut |_| Ok(())).unwrap());
    assert!(logits.iter().all(|value| value.is_finite()));
    let spread =
        logits.iter().fold(f64::MIN, |a, b| a.max(*b)) - logits.iter().fold(f64::MAX, |a, b| a.min(*b));
    assert!(spread > 0.1, "logits are flat: {spread}");
}

fn open(folder: &Path) -> Result<NetFiles<BiRefNetConfig>, CheckpointError> {
    open_birefnet(&folder.to_string_lossy(), &Caches::default())
}

#[test]
fn what_is_missing_misshapen_or_left_over_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write_random_checkpoint(&tiny(), DType::F16, 5, folder.path()).unwrap();
    let file = folder.path().join("model.safetensors");
    let mut map = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    map.remove("bb.norm2.bias").unwrap();
    map.insert("decoder.conv_out1.0.bias".to_owned(), randn(&[2], 1));
    map.insert("decoder.surplus".to_owned(), randn(&[3], 1));
    candle_core::safetensors::save(&map, &file).unwrap();
    let Err(CheckpointError::Tensors { problems }) = open(folder.path()) else { panic!("opened") };
    let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(problems.len(), 3, "{told}");
    for key in ["bb.norm2.bias", "decoder.conv_out1.0.bias", "decoder.surplus"] {
        assert!(told.contains(key), "{told}");
    }
    // A folder is a model only with its config; a lone file is none.
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(matches!(open(folder.path()), Err(CheckpointError::Layout { .. })));
    assert!(matches!(open(&file), Err(CheckpointError::Layout { .. })));
}

#[test]
fn the_published_config_means_the_published_sizes() {
    let published = r#"{"_name_or_path": "org/BiRefNet", "architectures": ["BiRefNet"], "auto_map": {}, "bb_pretrained": false}"#;
    let config: BiRefNetConfig = serde_json::from_str(published).unwrap();
    assert_eq!(config, BiRefNetConfig::default());
    assert_eq!((config.size, config.patch_order, config.context()), (1024, PatchOrder::ChannelsFirst, 5760));
    let older: BiRefNetConfig = serde_json::from_str(r#"{"patch_order": "columns_first"}"#).unwrap();
    assert_eq!(older.patch_order, PatchOrder::ColumnsFirst);
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    for (broken, named) in [
        (r#"{"size": 1000}"#, "size 1000"),
        (r#"{"backbone": {"num_heads": [5, 12, 24, 48]}}"#, "num_heads 5"),
        (r#"{"backbone": {"window_size": 1}}"#, "window_size 1"),
        (r#"{"backbone": {"embed_dim": 6, "num_heads": [1, 1, 1, 1]}}"#, "embed_dim 6"),
    ] {
        let config: BiRefNetConfig = serde_json::from_str(broken).unwrap();
        let probe = Arc::new(Probe::default());
        let error = BiRefNet::new(&config, &Weights::probing(&probe)).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

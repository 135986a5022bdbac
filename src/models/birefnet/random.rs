//! Checkpoints of any size in the published layout with random numbers: for benchmarks and tests without real weights.
//!
//! Keys and shapes come from the net's own constructor; what only training uses is added, so that readers meet a
//! checkpoint's real key list.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};

use super::decoder::GRADIENT;
use super::{BiRefNet, BiRefNetConfig};
use crate::models::rng::Generator;
use crate::models::weights::{Probe, Weights};

/// Writes `folder/config.json` and `folder/model.safetensors` (`dtype` floats; f16 as published). Numbers keep activations
/// around 1, and none is left at its start value: offsets of deformable convolutions differ from 0, norms from 1.
///
/// # Errors
/// The configuration does not fit together; the folder cannot be written.
pub fn write_random_checkpoint(
    config: &BiRefNetConfig,
    dtype: DType,
    seed: u64,
    folder: &Path,
) -> Result<()> {
    let mut generator = Generator::new(seed);
    let mut tensors = HashMap::new();
    let mut draw = |key: String, shape: &[usize]| {
        let drawn = generator.randn(shape, DType::F32, &Device::Cpu)?;
        let tensor = if key.ends_with("running_var") {
            ((drawn.abs()? * 0.25)? + 0.75)?
        } else if key.ends_with("running_mean") || (key.ends_with("bias") && shape.len() == 1) {
            (drawn * 0.05)?
        } else if key.ends_with("relative_position_bias_table") {
            (drawn * 0.5)?
        } else if shape.len() == 1 {
            ((drawn * 0.1)? + 1.0)?
        } else {
            let inputs: usize = shape.iter().skip(1).product();
            (drawn * (inputs as f64).powf(-0.5))?
        };
        tensors.insert(key, tensor.to_dtype(dtype)?);
        Ok::<_, Error>(())
    };
    let probe = Arc::new(Probe::default());
    BiRefNet::new(config, &Weights::probing(&probe))?;
    let expected = probe.expected();
    for tensor in &expected {
        draw(tensor.key.clone(), &tensor.shape)?;
    }
    for level in 2..=4 {
        let heads = [
            (format!("decoder.conv_ms_spvn_{level}"), config.features(level - 2)),
            (format!("decoder.gdt_convs_pred_{level}.0"), GRADIENT),
        ];
        for (head, inputs) in heads {
            draw(format!("{head}.weight"), &[1, inputs, 1, 1])?;
            draw(format!("{head}.bias"), &[1])?;
        }
    }
    let window = config.backbone.window_size;
    for tensor in &expected {
        if let Some(norm) = tensor.key.strip_suffix("running_mean") {
            tensors.insert(format!("{norm}num_batches_tracked"), Tensor::new(1i64, &Device::Cpu)?);
        }
        if let Some(attention) = tensor.key.strip_suffix("relative_position_bias_table") {
            let index = super::swin::distances(window).into_iter().map(i64::from).collect();
            let square = (window * window, window * window);
            let index = Tensor::from_vec(index, square, &Device::Cpu)?;
            tensors.insert(format!("{attention}relative_position_index"), index);
        }
    }
    let failed = |error: std::io::Error| Error::Msg(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let text = serde_json::to_vec_pretty(config).map_err(|error| Error::Msg(error.to_string()))?;
    std::fs::write(folder.join("config.json"), text).map_err(failed)?;
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors"))
}

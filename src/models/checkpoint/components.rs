//! All of FLUX's nets from wherever they lie, opened and checked together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult};
use serde::de::DeserializeOwned;

use super::check::{check, is_scale};
use super::{Caches, CheckpointError, Location, bfl, locate, single, t5_gguf};
use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::schedulers::FlowMatchConfig;
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::{Probe, Problem, Renamed, Source, Weights};

/// Where the transformer-only files get their other nets from if none lie beside them.
const BASES: [(&str, bool); 2] =
    [("black-forest-labs/FLUX.1-dev", true), ("black-forest-labs/FLUX.1-schnell", false)];

/// A net's configuration and its tensors, none of them loaded.
#[derive(Clone)]
pub struct NetFiles<C> {
    /// From `config.json`, or read off the shapes.
    pub config: C,
    /// Under diffusers' or transformers' names.
    pub source: Arc<dyn Source>,
}

impl<C> NetFiles<C> {
    /// The tensors as `dtype` on `device`.
    pub fn weights(&self, dtype: DType, device: &Device) -> Weights {
        Weights::new(Arc::clone(&self.source), dtype, device)
    }
}

/// A complete FLUX model, every tensor checked.
#[derive(Clone)]
pub struct FluxCheckpoint {
    /// The denoiser.
    pub transformer: NetFiles<FluxConfig>,
    /// CLIP-L.
    pub text_encoder: NetFiles<ClipConfig>,
    /// T5-XXL.
    pub text_encoder_2: NetFiles<T5Config>,
    /// The autoencoder.
    pub vae: NetFiles<VaeConfig>,
    /// `scheduler_config.json`.
    pub scheduler: FlowMatchConfig,
    /// Folder of CLIP's vocabulary.
    pub tokenizer: PathBuf,
    /// Folder of T5's vocabulary.
    pub tokenizer_2: PathBuf,
}

/// Files that take the place of a folder's nets; any layout that [`FluxCheckpoint::open`] knows.
#[derive(Debug, Clone, Default)]
pub struct Replacements {
    /// Transformer file or folder.
    pub transformer: Option<PathBuf>,
    /// T5 file or folder.
    pub text_encoder_2: Option<PathBuf>,
    /// VAE file or folder.
    pub vae: Option<PathBuf>,
}

impl FluxCheckpoint {
    /// Opens `model` (a folder, a transformer file, or a Hub id in one of `caches`). A file's other nets come from the
    /// folder that it lies in, or from the cached FLUX.1-dev or -schnell.
    ///
    /// # Errors
    /// [`CheckpointError`]; tensors are reported all at once, over all nets.
    pub fn open(model: &str, replacements: &Replacements, caches: &Caches) -> Result<Self, CheckpointError> {
        let mut problems = Vec::new();
        let (base, file) = match locate(model, caches)? {
            Location::Folder(folder) => (Some(folder), replacements.transformer.clone()),
            Location::File(file) => (base_beside(&file), Some(file)),
        };
        let transformer_path = match (&base, file) {
            (_, Some(file)) => file,
            (Some(base), None) => base.join("transformer"),
            // Unreachable by construction; an error all the same.
            (None, None) => return Err(CheckpointError::layout(Path::new(model), "a transformer", "none")),
        };
        let transformer = gather(&mut problems, transformer(&transformer_path))?;
        let base = match (base, &transformer) {
            (Some(base), _) => base,
            (None, Some(net)) => base_in_caches(net.config.guidance_embeds, &transformer_path, caches)?,
            (None, None) => return Err(problems.into()),
        };
        let text_encoder = gather(&mut problems, clip(&base.join("text_encoder")))?;
        let t5_path = replacements.text_encoder_2.clone().unwrap_or_else(|| base.join("text_encoder_2"));
        let text_encoder_2 = gather(&mut problems, t5(&t5_path, &base))?;
        let vae_path = replacements.vae.clone().unwrap_or_else(|| base.join("vae"));
        let vae = gather(&mut problems, vae(&vae_path, &base))?;
        let scheduler = single::json(&base.join("scheduler/scheduler_config.json"))?;
        match (transformer, text_encoder, text_encoder_2, vae) {
            (Some(transformer), Some(text_encoder), Some(text_encoder_2), Some(vae))
                if problems.is_empty() =>
            {
                Ok(Self {
                    transformer,
                    text_encoder,
                    text_encoder_2,
                    vae,
                    scheduler,
                    tokenizer: base.join("tokenizer"),
                    tokenizer_2: base.join("tokenizer_2"),
                })
            }
            _ => Err(problems.into()),
        }
    }
}

/// Keeps tensor problems for the common report; other errors end the search.
pub(super) fn gather<C>(
    problems: &mut Vec<Problem>,
    opened: Result<(NetFiles<C>, Vec<Problem>), CheckpointError>,
) -> Result<Option<NetFiles<C>>, CheckpointError> {
    match opened {
        Ok((net, found)) => {
            problems.extend(found);
            Ok(Some(net))
        }
        Err(CheckpointError::Tensors { problems: found }) => {
            problems.extend(found);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

pub(super) type Opened<C> = Result<(NetFiles<C>, Vec<Problem>), CheckpointError>;

fn transformer(path: &Path) -> Opened<FluxConfig> {
    let source = single::open(path)?;
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let config_file = folder.map(|folder| folder.join("config.json")).filter(|file| file.is_file());
    let config: Option<FluxConfig> = match &config_file {
        Some(file) => Some(class(file, "FluxTransformer2DModel")?),
        None => None,
    };
    let (config, source) = match (bfl::prefix(source.as_ref()), config) {
        (Some(prefix), config) => {
            let axes = config.map(|config| config.axes_dims_rope);
            let config = bfl::config(source.as_ref(), prefix, path, axes)?;
            let renamed = bfl::transformer(source, prefix, &config);
            (config, Arc::new(renamed) as Arc<dyn Source>)
        }
        (None, Some(config)) => (config, source),
        (None, None) => {
            return Err(CheckpointError::layout(
                path,
                "Black Forest Labs' names (img_in.weight), or a config.json beside diffusers' names",
                "neither",
            ));
        }
    };
    let problems = compare(path, &source, is_scale, |w| {
        Conditioner::new(&config, w)?;
        Transformer::new(&config, w).map(drop)
    })?;
    Ok((NetFiles { config, source }, problems))
}

fn clip(path: &Path) -> Opened<ClipConfig> {
    let mut source = single::open(path)?;
    if source.meta("text_model.embeddings.token_embedding.weight").is_some() {
        source = Arc::new(Renamed::stripped(source, "text_model."));
    }
    let config: ClipConfig = single::json(&path.join("config.json"))?;
    let extra = |key: &str| key == "embeddings.position_ids" || is_scale(key);
    let problems = compare(path, &source, extra, |w| ClipText::new(&config, w).map(drop))?;
    Ok((NetFiles { config, source }, problems))
}

fn t5(path: &Path, base: &Path) -> Opened<T5Config> {
    let mut source = single::open(path)?;
    if t5_gguf::is_t5(source.as_ref()) {
        source = Arc::new(t5_gguf::renamed(source));
    } else if source.meta("shared.weight").is_none() {
        source = Arc::new(t5_gguf::with_shared(source));
    }
    let config: T5Config = single::json(&config_of(path, base, "text_encoder_2"))?;
    let extra = |key: &str| key == "encoder.embed_tokens.weight" || is_scale(key);
    let problems = compare(path, &source, extra, |w| T5Encoder::new(&config, w).map(drop))?;
    Ok((NetFiles { config, source }, problems))
}

pub(super) fn vae(path: &Path, base: &Path) -> Opened<VaeConfig> {
    let mut source = single::open(path)?;
    let config: VaeConfig = class(&config_of(path, base, "vae"), "AutoencoderKL")?;
    if bfl::is_vae(source.as_ref()) {
        source = Arc::new(bfl::vae(source, config.block_out_channels.len()));
    }
    let problems = compare(path, &source, is_scale, |w| Vae::new(&config, w).map(drop))?;
    Ok((NetFiles { config, source }, problems))
}

/// A replaced net's configuration: beside it if it is a folder, else the base's.
fn config_of(path: &Path, base: &Path, net: &str) -> PathBuf {
    if path.is_dir() { path.join("config.json") } else { base.join(net).join("config.json") }
}

/// A configuration whose `_class_name`, if it has one, is `name`.
pub(super) fn class<T: DeserializeOwned>(path: &Path, name: &str) -> Result<T, CheckpointError> {
    let value: serde_json::Value = single::json(path)?;
    if let Some(found) =
        value.get("_class_name").and_then(serde_json::Value::as_str).filter(|found| *found != name)
    {
        return Err(CheckpointError::layout(path, format!("_class_name {name}"), found));
    }
    serde_json::from_value(value)
        .map_err(|error| CheckpointError::layout(path, format!("the fields of {name}"), error.to_string()))
}

/// Runs a net's constructor on a probe and compares what it asked for with what is there.
pub(super) fn compare(
    path: &Path,
    source: &Arc<dyn Source>,
    extra: impl Fn(&str) -> bool,
    build: impl FnOnce(&Weights) -> TensorResult<()>,
) -> Result<Vec<Problem>, CheckpointError> {
    let probe = Arc::new(Probe::default());
    build(&Weights::probing(&probe)).map_err(|error| {
        CheckpointError::layout(path, "a configuration that fits together", error.to_string())
    })?;
    Ok(check(&probe.expected(), source.as_ref(), extra))
}

/// The folder of a transformer file, or its parent, if it is a whole model's.
fn base_beside(file: &Path) -> Option<PathBuf> {
    file.ancestors().skip(1).take(2).find(|folder| folder.join("text_encoder_2").is_dir()).map(Path::to_owned)
}

fn base_in_caches(guidance: bool, file: &Path, caches: &Caches) -> Result<PathBuf, CheckpointError> {
    for (model, has_guidance) in BASES {
        if has_guidance != guidance {
            continue;
        }
        if let Ok(Location::Folder(folder)) = locate(model, caches) {
            return Ok(folder);
        }
    }
    Err(CheckpointError::layout(
        file,
        "text encoders, VAE, tokenizers and scheduler beside the file, or FLUX.1-dev/-schnell in a cache",
        "the transformer alone",
    ))
}

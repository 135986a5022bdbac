//! All of SDXL's nets from wherever they lie, opened and checked together; ControlNets on their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::check::is_scale;
use super::components::{Opened, class, compare, gather};
use super::{Caches, CheckpointError, Location, NetFiles, components, ldm, locate, single};
use crate::models::published;
use crate::models::schedulers::EulerConfig;
use crate::models::sdxl::{ControlNet, ControlNetConfig, Unet, UnetConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::{Recipe, Renamed, Source};

/// Where a single file gets its vocabularies from if none lie beside it.
const BASE: &str = "stabilityai/stable-diffusion-xl-base-1.0";

/// A complete SDXL model, every tensor checked.
#[derive(Clone)]
pub struct SdxlCheckpoint {
    /// The denoiser.
    pub unet: NetFiles<UnetConfig>,
    /// CLIP-L.
    pub text_encoder: NetFiles<ClipConfig>,
    /// OpenCLIP's bigG, with its projection.
    pub text_encoder_2: NetFiles<ClipConfig>,
    /// The autoencoder.
    pub vae: NetFiles<VaeConfig>,
    /// `scheduler_config.json`.
    pub scheduler: EulerConfig,
    /// Folder of the first encoder's vocabulary.
    pub tokenizer: PathBuf,
    /// Folder of the second's, which differs in its padding.
    pub tokenizer_2: PathBuf,
    /// Whether no negative prompt means zeros instead of an encoded empty text (`force_zeros_for_empty_prompt`).
    pub zero_empty_prompt: bool,
}

impl SdxlCheckpoint {
    /// Opens `model` (a folder, a single file, or a Hub id in one of `caches`), with its VAE replaced by `vae` (a folder,
    /// a file, or a Hub id) if one is given. A single file has no vocabularies: they come from the folder that it lies in,
    /// or from the cached base model; configurations likewise, or are those of the base model.
    ///
    /// # Errors
    /// [`CheckpointError`]; tensors are reported all at once, over all nets.
    pub fn open(model: &str, vae: Option<&str>, caches: &Caches) -> Result<Self, CheckpointError> {
        let (base, file) = match locate(model, caches)? {
            Location::Folder(folder) => (folder, None),
            Location::File(file) => (base_of(&file, caches)?, Some(file)),
        };
        let file = match file {
            Some(path) => {
                let source = single::open(&path)?;
                if !ldm::is_sdxl(source.as_ref()) {
                    return Err(CheckpointError::layout(
                        &path,
                        "SDXL in one file: model.diffusion_model.…, conditioner.embedders.…, first_stage_model.…",
                        "other tensors",
                    ));
                }
                Some(Single { path, source, base: base.clone() })
            }
            None => None,
        };
        let mut problems = Vec::new();
        let unet = gather(
            &mut problems,
            match &file {
                Some(file) => file.unet(),
                None => unet(&base.join("unet")),
            },
        )?;
        let text_encoder = gather(
            &mut problems,
            match &file {
                Some(file) => file.clip("text_encoder", published::clip_l, ldm::clip),
                None => clip(&base.join("text_encoder")),
            },
        )?;
        let text_encoder_2 = gather(
            &mut problems,
            match &file {
                Some(file) => file.clip("text_encoder_2", published::clip_big_g, ldm::open_clip),
                None => clip(&base.join("text_encoder_2")),
            },
        )?;
        let vae = gather(
            &mut problems,
            match (vae, &file) {
                (Some(vae), _) => replacement(vae, &base, caches),
                (None, Some(file)) => file.vae(),
                (None, None) => components::vae(&base.join("vae"), &base),
            },
        )?;
        let scheduler = config(
            &base,
            "scheduler/scheduler_config.json",
            None,
            file.is_some().then_some(published::sdxl_scheduler),
        )?;
        let index: serde_json::Value =
            config(&base, "model_index.json", None, Some(|| serde_json::Value::Null))?;
        let zero_empty_prompt =
            index.get("force_zeros_for_empty_prompt").and_then(serde_json::Value::as_bool).unwrap_or(true);
        match (unet, text_encoder, text_encoder_2, vae) {
            (Some(unet), Some(text_encoder), Some(text_encoder_2), Some(vae)) if problems.is_empty() => {
                Ok(Self {
                    unet,
                    text_encoder,
                    text_encoder_2,
                    vae,
                    scheduler,
                    tokenizer: base.join("tokenizer"),
                    tokenizer_2: base.join("tokenizer_2"),
                    zero_empty_prompt,
                })
            }
            _ => Err(problems.into()),
        }
    }
}

/// A ControlNet for SDXL.
pub struct SdxlControlNet;

impl SdxlControlNet {
    /// Opens `model`: a folder with `config.json` and weights, a weights file beside its `config.json`, or a Hub id in one
    /// of `caches`.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(model: &str, caches: &Caches) -> Result<NetFiles<ControlNetConfig>, CheckpointError> {
        let path = place(locate(model, caches)?);
        let source = single::open(&path)?;
        let config: ControlNetConfig = class(&beside(&path), "ControlNetModel")?;
        let problems = compare(&path, &source, is_scale, |w| ControlNet::new(&config, w).map(drop))?;
        if problems.is_empty() { Ok(NetFiles { config, source }) } else { Err(problems.into()) }
    }
}

/// A file with all nets.
struct Single {
    path: PathBuf,
    source: Arc<dyn Source>,
    base: PathBuf,
}

impl Single {
    fn unet(&self) -> Opened<UnetConfig> {
        let config =
            config(&self.base, "unet/config.json", Some("UNet2DConditionModel"), Some(published::sdxl_unet))?;
        let source = ldm::unet(Arc::clone(&self.source), config.trunk.layers_per_block);
        let problems = compare(&self.path, &source, is_scale, |w| Unet::new(&config, w).map(drop))?;
        Ok((NetFiles { config, source }, problems))
    }

    fn clip(
        &self,
        name: &str,
        published: fn() -> ClipConfig,
        renamed: fn(Arc<dyn Source>) -> Arc<dyn Source>,
    ) -> Opened<ClipConfig> {
        let config = config(&self.base, &format!("{name}/config.json"), None, Some(published))?;
        checked_clip(&self.path, config, renamed(Arc::clone(&self.source)))
    }

    fn vae(&self) -> Opened<VaeConfig> {
        let config = config(&self.base, "vae/config.json", Some("AutoencoderKL"), Some(published::sdxl_vae))?;
        let source = ldm::vae(Arc::clone(&self.source), config.block_out_channels.len());
        let problems = compare(&self.path, &source, is_scale, |w| Vae::new(&config, w).map(drop))?;
        Ok((NetFiles { config, source }, problems))
    }
}

fn unet(folder: &Path) -> Opened<UnetConfig> {
    let source = single::open(folder)?;
    let config: UnetConfig = class(&folder.join("config.json"), "UNet2DConditionModel")?;
    let problems = compare(folder, &source, is_scale, |w| Unet::new(&config, w).map(drop))?;
    Ok((NetFiles { config, source }, problems))
}

fn clip(folder: &Path) -> Opened<ClipConfig> {
    let source = single::open(folder)?;
    let config: ClipConfig = single::json(&folder.join("config.json"))?;
    // The projection lies outside of what the prefix covers.
    let recipes = source
        .keys()
        .into_iter()
        .map(|key| (key.strip_prefix("text_model.").unwrap_or(&key).to_owned(), Recipe::whole(key)))
        .collect();
    checked_clip(folder, config, Arc::new(Renamed::new(source, recipes)))
}

fn checked_clip(path: &Path, config: ClipConfig, source: Arc<dyn Source>) -> Opened<ClipConfig> {
    let extra = |key: &str| key == "embeddings.position_ids" || is_scale(key);
    let problems = compare(path, &source, extra, |w| ClipText::new(&config, w).map(drop))?;
    Ok((NetFiles { config, source }, problems))
}

fn replacement(vae: &str, base: &Path, caches: &Caches) -> Opened<VaeConfig> {
    let path = place(locate(vae, caches)?);
    // A file's own configuration says whether it overflows in f16; the base model's would be wrong for a fixed one.
    if path.is_file() && beside(&path).is_file() {
        let source = single::open(&path)?;
        let config: VaeConfig = class(&beside(&path), "AutoencoderKL")?;
        let source = if super::bfl::is_vae(source.as_ref()) {
            Arc::new(super::bfl::vae(source, config.block_out_channels.len()))
        } else {
            source
        };
        let problems = compare(&path, &source, is_scale, |w| Vae::new(&config, w).map(drop))?;
        return Ok((NetFiles { config, source }, problems));
    }
    components::vae(&path, base)
}

fn place(location: Location) -> PathBuf {
    match location {
        Location::Folder(path) | Location::File(path) => path,
    }
}

/// The configuration of a net's folder or file.
fn beside(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("config.json") } else { path.with_file_name("config.json") }
}

/// `base/name`, of the class if it says one; `published` if there is no such file.
fn config<T: DeserializeOwned>(
    base: &Path,
    name: &str,
    class_name: Option<&str>,
    published: Option<fn() -> T>,
) -> Result<T, CheckpointError> {
    let path = base.join(name);
    match (published, class_name) {
        (Some(published), _) if !path.is_file() => Ok(published()),
        (_, Some(class_name)) => class(&path, class_name),
        (_, None) => single::json(&path),
    }
}

/// The folder with the vocabularies for a single file.
fn base_of(file: &Path, caches: &Caches) -> Result<PathBuf, CheckpointError> {
    let own = file
        .ancestors()
        .skip(1)
        .take(2)
        .find(|folder| folder.join("tokenizer").is_dir() && folder.join("tokenizer_2").is_dir());
    if let Some(folder) = own {
        return Ok(folder.to_owned());
    }
    match locate(BASE, caches) {
        Ok(Location::Folder(folder)) => Ok(folder),
        _ => Err(CheckpointError::layout(
            file,
            format!("the folders tokenizer and tokenizer_2 beside the file, or {BASE} in a cache"),
            "the nets alone",
        )),
    }
}

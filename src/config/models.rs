//! Which nets, and where they run.

use serde::Deserialize;

use super::reader::Reader;

const SDXL_BASE: &str = "stabilityai/stable-diffusion-xl-base-1.0";

/// Nets and their place. Words, not devices: a build without nets reads the same variables.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// FLUX.
    pub flux: FluxSource,
    /// SDXL and its ControlNet.
    pub sdxl: SdxlSource,
    /// `SEGMENTATION_MODEL`: BiRefNet, a folder or a Hub id; default `ZhengPeng7/BiRefNet`.
    pub segmentation: String,
    /// `DEVICE`: `cpu` (default), `cuda` or `cuda:N`.
    pub device: Option<String>,
    /// `DTYPE`: `f32`, `bf16` or `f16`; default bf16 on a card, f32 on a CPU.
    pub dtype: Option<String>,
    /// `QUANTIZATION`: `none` (default), `fp8` or `int8`, for FLUX's blocks.
    pub quantization: Option<String>,
}

/// The FLUX checkpoint.
#[derive(Debug, Clone)]
pub struct FluxSource {
    /// `FLUX_MODEL`: a folder, a transformer file or a Hub id; default `black-forest-labs/FLUX.1-dev`.
    pub model: String,
    /// `FLUX_TRANSFORMER`, `FLUX_T5`, `FLUX_VAE`: files or folders that take the place of the model's own nets, such as a
    /// quantised transformer.
    pub transformer: Option<String>,
    /// See `transformer`.
    pub t5: Option<String>,
    /// See `transformer`.
    pub vae: Option<String>,
}

/// The SDXL checkpoint.
#[derive(Debug, Clone)]
pub struct SdxlSource {
    /// `SDXL_MODEL`: a folder, a single file or a Hub id; default `stabilityai/stable-diffusion-xl-base-1.0`.
    pub model: String,
    /// `SDXL_VAE`: takes the place of the model's VAE; see [`SdxlSource::vae_of`] for the default.
    pub vae: Option<String>,
    /// `CONTROLNET_MODEL`: a folder, a file or a Hub id; default `diffusers/controlnet-canny-sdxl-1.0`.
    pub controlnet: String,
}

impl SdxlSource {
    /// The VAE that takes the place of `model`'s own: what is configured, else the fix of the base model's VAE, which
    /// overflows in f16. A fine-tune may ship its own.
    pub fn vae_of(&self, model: &str) -> Option<&str> {
        self.vae.as_deref().or_else(|| (model == SDXL_BASE).then_some("madebyollin/sdxl-vae-fp16-fix"))
    }
}

#[cfg(feature = "models")]
impl FluxSource {
    /// The files that take the place of the model's nets.
    pub fn replacements(&self) -> crate::models::checkpoint::Replacements {
        crate::models::checkpoint::Replacements {
            transformer: self.transformer.as_ref().map(Into::into),
            text_encoder_2: self.t5.as_ref().map(Into::into),
            vae: self.vae.as_ref().map(Into::into),
        }
    }
}

#[derive(Deserialize, Default)]
struct Raw {
    flux_model: Option<String>,
    flux_transformer: Option<String>,
    flux_t5: Option<String>,
    flux_vae: Option<String>,
    sdxl_model: Option<String>,
    sdxl_vae: Option<String>,
    controlnet_model: Option<String>,
    segmentation_model: Option<String>,
    device: Option<String>,
    dtype: Option<String>,
    quantization: Option<String>,
}

impl ModelConfig {
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Self {
        let raw: Raw = reader.section("", vars);
        Self {
            flux: FluxSource {
                model: raw.flux_model.unwrap_or_else(|| "black-forest-labs/FLUX.1-dev".to_owned()),
                transformer: raw.flux_transformer,
                t5: raw.flux_t5,
                vae: raw.flux_vae,
            },
            sdxl: SdxlSource {
                vae: raw.sdxl_vae,
                model: raw.sdxl_model.unwrap_or_else(|| SDXL_BASE.to_owned()),
                controlnet: raw
                    .controlnet_model
                    .unwrap_or_else(|| "diffusers/controlnet-canny-sdxl-1.0".to_owned()),
            },
            segmentation: raw.segmentation_model.unwrap_or_else(|| "ZhengPeng7/BiRefNet".to_owned()),
            device: raw.device,
            dtype: raw.dtype,
            quantization: raw.quantization,
        }
    }
}

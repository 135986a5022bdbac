//! Where the measured nets come from: seeds or files.

use std::sync::Arc;

use candle_core::DType;

use super::{Bench, BenchError};
use crate::models::birefnet::{BiRefNet, BiRefNetConfig, SwinConfig};
use crate::models::checkpoint::{
    Caches, FluxCheckpoint, NetFiles, Replacements, SdxlCheckpoint, SdxlControlNet, open_birefnet,
};
use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::published;
use crate::models::schedulers::{EulerConfig, FlowMatchConfig};
use crate::models::sdxl::{ControlNet, ControlNetConfig, PerLevel, TrunkConfig, Unet, UnetConfig};
use crate::models::text_encoders::clip::{ClipConfig, ClipText};
use crate::models::text_encoders::t5::{T5Config, T5Encoder};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::{Random, Weights};

/// Sizes of nets with random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// As published.
    Published,
    /// A few layers of a few channels: the same code in milliseconds on a CPU.
    Tiny,
}

/// Where nets come from.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one a process")]
pub enum Origin {
    /// Drawn from the seed.
    Random(Size),
    /// Files, as configured.
    Checkpoints {
        /// `FLUX_MODEL`.
        flux: String,
        /// `FLUX_TRANSFORMER` and its like.
        replacements: Replacements,
        /// `SDXL_MODEL`.
        sdxl: String,
        /// `SDXL_VAE`.
        sdxl_vae: Option<String>,
        /// `CONTROLNET_MODEL`.
        controlnet: String,
        /// `SEGMENTATION_MODEL`.
        birefnet: String,
        /// Where Hub ids are looked for.
        caches: Caches,
    },
}

/// FLUX's four nets and its schedule.
pub(super) struct Flux {
    pub(super) transformer: NetFiles<FluxConfig>,
    pub(super) clip: NetFiles<ClipConfig>,
    pub(super) t5: NetFiles<T5Config>,
    pub(super) vae: NetFiles<VaeConfig>,
    pub(super) scheduler: FlowMatchConfig,
}

/// SDXL's nets, a ControlNet, and its schedule.
pub(super) struct Sdxl {
    pub(super) unet: NetFiles<UnetConfig>,
    pub(super) controlnet: NetFiles<ControlNetConfig>,
    pub(super) clip_big_g: NetFiles<ClipConfig>,
    pub(super) vae: NetFiles<VaeConfig>,
    pub(super) scheduler: EulerConfig,
}

impl Bench<'_> {
    /// Random weights for a net of `config`.
    fn drawn<C>(
        &self,
        dtype: DType,
        config: C,
        build: impl FnOnce(&C, &Weights) -> candle_core::Result<()>,
    ) -> Result<NetFiles<C>, BenchError> {
        let source = Random::new(dtype, self.settings.seed, |w| build(&config, w))?;
        Ok(NetFiles { config, source: Arc::new(source) })
    }

    pub(super) fn flux(&self, dtype: DType) -> Result<Flux, BenchError> {
        let size = match &self.settings.origin {
            Origin::Checkpoints { flux, replacements, caches, .. } => {
                let files = FluxCheckpoint::open(flux, replacements, caches)?;
                return Ok(Flux {
                    transformer: files.transformer,
                    clip: files.text_encoder,
                    t5: files.text_encoder_2,
                    vae: files.vae,
                    scheduler: files.scheduler,
                });
            }
            Origin::Random(size) => *size,
        };
        let (transformer, clip, t5, vae) = match size {
            Size::Published => {
                (published::flux_dev(), published::clip_l(), published::t5_xxl(), published::flux_vae())
            }
            Size::Tiny => {
                (tiny_flux(), tiny_clip(published::clip_l()), tiny_t5(), tiny(published::flux_vae()))
            }
        };
        Ok(Flux {
            transformer: self.drawn(dtype, transformer, |config, w| {
                Conditioner::new(config, w)?;
                Transformer::new(config, w).map(drop)
            })?,
            clip: self.drawn(dtype, clip, |config, w| ClipText::new(config, w).map(drop))?,
            t5: self.drawn(dtype, t5, |config, w| T5Encoder::new(config, w).map(drop))?,
            vae: self.drawn(dtype, vae, |config, w| Vae::new(config, w).map(drop))?,
            scheduler: published::flux_dev_scheduler(),
        })
    }

    pub(super) fn sdxl(&self, dtype: DType) -> Result<Sdxl, BenchError> {
        let size = match &self.settings.origin {
            Origin::Checkpoints { sdxl, sdxl_vae, controlnet, caches, .. } => {
                let files = SdxlCheckpoint::open(sdxl, sdxl_vae.as_deref(), caches)?;
                return Ok(Sdxl {
                    unet: files.unet,
                    controlnet: SdxlControlNet::open(controlnet, caches)?,
                    clip_big_g: files.text_encoder_2,
                    vae: files.vae,
                    scheduler: files.scheduler,
                });
            }
            Origin::Random(size) => *size,
        };
        let (mut unet, mut controlnet) = (published::sdxl_unet(), published::sdxl_controlnet());
        let (mut clip, mut vae) = (published::clip_big_g(), published::sdxl_vae_fixed());
        if size == Size::Tiny {
            unet.trunk = tiny_trunk();
            controlnet.trunk = tiny_trunk();
            controlnet.conditioning_embedding_out_channels = vec![4, 8, 8, 16];
            clip = tiny_clip(clip);
            vae = tiny(vae);
        }
        Ok(Sdxl {
            unet: self.drawn(dtype, unet, |config, w| Unet::new(config, w).map(drop))?,
            controlnet: self.drawn(dtype, controlnet, |config, w| ControlNet::new(config, w).map(drop))?,
            clip_big_g: self.drawn(dtype, clip, |config, w| ClipText::new(config, w).map(drop))?,
            vae: self.drawn(dtype, vae, |config, w| Vae::new(config, w).map(drop))?,
            scheduler: published::sdxl_scheduler(),
        })
    }

    pub(super) fn birefnet(&self, dtype: DType) -> Result<NetFiles<BiRefNetConfig>, BenchError> {
        let config = match &self.settings.origin {
            Origin::Checkpoints { birefnet, caches, .. } => return Ok(open_birefnet(birefnet, caches)?),
            Origin::Random(Size::Published) => published::birefnet(),
            Origin::Random(Size::Tiny) => BiRefNetConfig {
                backbone: SwinConfig {
                    embed_dim: 8,
                    depths: [2, 2, 2, 2],
                    num_heads: [1, 1, 2, 2],
                    window_size: 4,
                },
                ..published::birefnet()
            },
        };
        self.drawn(dtype, config, |config, w| BiRefNet::new(config, w).map(drop))
    }
}

fn tiny_flux() -> FluxConfig {
    FluxConfig {
        num_layers: 2,
        num_single_layers: 2,
        attention_head_dim: 16,
        num_attention_heads: 2,
        joint_attention_dim: 32,
        pooled_projection_dim: 32,
        axes_dims_rope: [4, 4, 8],
        ..published::flux_dev()
    }
}

fn tiny_clip(config: ClipConfig) -> ClipConfig {
    ClipConfig {
        vocab_size: 100,
        hidden_size: 32,
        intermediate_size: 48,
        projection_dim: 24,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        ..config
    }
}

fn tiny_t5() -> T5Config {
    T5Config {
        vocab_size: 100,
        d_model: 32,
        d_kv: 8,
        d_ff: 48,
        num_layers: 2,
        num_heads: 4,
        ..published::t5_xxl()
    }
}

fn tiny(config: VaeConfig) -> VaeConfig {
    VaeConfig { block_out_channels: vec![8, 8, 16, 16], layers_per_block: 1, norm_num_groups: 4, ..config }
}

fn tiny_trunk() -> TrunkConfig {
    TrunkConfig {
        block_out_channels: vec![16, 16, 32],
        attention_head_dim: PerLevel::Each(vec![1, 1, 2]),
        transformer_layers_per_block: PerLevel::Each(vec![1, 1, 2]),
        cross_attention_dim: 64,
        norm_num_groups: 4,
        addition_time_embed_dim: Some(8),
        projection_class_embeddings_input_dim: Some(6 * 8 + 24),
        ..published::sdxl_unet().trunk
    }
}

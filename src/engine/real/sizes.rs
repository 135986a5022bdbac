//! How much each configured net takes, without loading one: what `marquee plan` reckons with.
//!
//! From the checkpoint's headers where it is at hand, else from the published model's configuration. Must not know devices.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::itinerary::Net;
use super::nets::Dtypes;
use crate::config::ModelConfig;
use crate::memory::Store;
use crate::memory::schedule::Size;
use crate::models::birefnet::BiRefNet;
use crate::models::checkpoint::{
    Caches, FluxCheckpoint, NetFiles, SdxlCheckpoint, SdxlControlNet, open_birefnet,
};
use crate::models::flux::{Conditioner, Transformer};
use crate::models::published;
use crate::models::sdxl::{ControlNet, Unet};
use crate::models::text_encoders::clip::ClipText;
use crate::models::text_encoders::t5::T5Encoder;
use crate::models::vae::Vae;
use crate::models::weights::{Probe, Source, Weights};

/// Sizes of nets, and where they are known from.
pub struct Sizes {
    /// By [`Net::ALL`]'s order.
    pub nets: Vec<Size>,
    /// Families whose checkpoint is not at hand: the published sizes stand in.
    pub assumed: Vec<&'static str>,
}

/// Sizes of all nets computing in `dtypes`.
///
/// # Errors
/// A constructor refuses its own configuration.
pub fn sizes(config: &ModelConfig, caches: &Caches, dtypes: Dtypes) -> Result<Sizes> {
    let mut assumed = Vec::new();
    let mut nets: Vec<(Net, Size)> = Vec::with_capacity(Net::ALL.len());
    let ModelConfig { flux, sdxl, segmentation, .. } = config;

    let opened = FluxCheckpoint::open(&flux.model, &flux.replacements(), caches).ok();
    if opened.is_none() {
        assumed.push("FLUX.1-dev");
    }
    let (transformer, clip, t5, vae) = match opened {
        Some(files) => (
            known(files.transformer),
            known(files.text_encoder),
            known(files.text_encoder_2),
            known(files.vae),
        ),
        None => (
            (published::flux_dev(), None),
            (published::clip_l(), None),
            (published::t5_xxl(), None),
            (published::flux_vae(), None),
        ),
    };
    let dtype = dtypes.flux;
    nets.push(size(Net::FluxClip, clip.1, dtype, |w| ClipText::new(&clip.0, w))?);
    nets.push(size(Net::FluxT5, t5.1, dtype, |w| T5Encoder::new(&t5.0, w))?);
    let same = transformer.1.clone();
    nets.push(size(Net::FluxConditioner, same, dtype, |w| Conditioner::new(&transformer.0, w))?);
    let blocks = dtypes.flux_blocks;
    nets.push(size(Net::FluxTransformer, transformer.1, dtype, |w| {
        Transformer::new(&transformer.0, &w.in_eight(blocks))
    })?);
    nets.push(size(Net::FluxVae, vae.1, vae.0.safe_dtype(dtype), |w| Vae::new(&vae.0, w))?);

    let opened = SdxlCheckpoint::open(&sdxl.model, sdxl.vae_of(&sdxl.model), caches).ok();
    if opened.is_none() {
        assumed.push("SDXL base");
    }
    let (unet, clip_l, clip_g, vae) = match opened {
        Some(files) => {
            (known(files.unet), known(files.text_encoder), known(files.text_encoder_2), known(files.vae))
        }
        None => (
            (published::sdxl_unet(), None),
            (published::clip_l(), None),
            (published::clip_big_g(), None),
            (published::sdxl_vae_fixed(), None),
        ),
    };
    let dtype = dtypes.sdxl;
    nets.push(size(Net::SdxlClipL, clip_l.1, dtype, |w| ClipText::new(&clip_l.0, w))?);
    nets.push(size(Net::SdxlClipG, clip_g.1, dtype, |w| ClipText::new(&clip_g.0, w))?);
    nets.push(size(Net::SdxlUnet, unet.1, dtype, |w| Unet::new(&unet.0, w))?);
    let opened = SdxlControlNet::open(&sdxl.controlnet, caches).ok();
    if opened.is_none() {
        assumed.push("the canny ControlNet");
    }
    let controlnet = opened.map_or_else(|| (published::sdxl_controlnet(), None), known);
    nets.push(size(Net::SdxlControlNet, controlnet.1, dtype, |w| ControlNet::new(&controlnet.0, w))?);
    nets.push(size(Net::SdxlVae, vae.1, vae.0.safe_dtype(dtype), |w| Vae::new(&vae.0, w))?);

    let opened = open_birefnet(segmentation, caches).ok();
    if opened.is_none() {
        assumed.push("BiRefNet");
    }
    let birefnet = opened.map_or_else(|| (published::birefnet(), None), known);
    nets.push(size(Net::BiRefNet, birefnet.1, dtypes.birefnet, |w| BiRefNet::new(&birefnet.0, w))?);

    let place = |net: &Net| Net::ALL.iter().position(|other| other == net);
    nets.sort_by_key(|(net, _)| place(net));
    Ok(Sizes { nets: nets.into_iter().map(|(_, size)| size).collect(), assumed })
}

fn known<C>(files: NetFiles<C>) -> (C, Option<Arc<dyn Source>>) {
    (files.config, Some(files.source))
}

/// Lays the net out as memory would; without a source, one that has all that the net asks for and no data.
fn size<T>(
    net: Net,
    source: Option<Arc<dyn Source>>,
    dtype: DType,
    build: impl Fn(&Weights) -> Result<T>,
) -> Result<(Net, Size)> {
    let source = if let Some(source) = source {
        source
    } else {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe))?;
        let hollow = probe.expected().into_iter().map(|tensor| {
            let zeros = Tensor::zeros((), DType::F16, &Device::Cpu)?.broadcast_as(tensor.shape)?;
            Ok((tensor.key, zeros))
        });
        Arc::new(hollow.collect::<Result<HashMap<String, Tensor>>>()?) as Arc<dyn Source>
    };
    let store = Store::new(net.name(), source, dtype, &Device::Cpu, |w| build(w).map(drop))?;
    let size = Size {
        name: net.name().to_owned(),
        pieces: store.pieces(),
        slot: store.slot(),
        host: store.host_bytes(),
    };
    Ok((net, size))
}

//! The configured checkpoints: opened and checked when a job first needs them, registered with memory, kept open.
//!
//! Opening reads headers only, so a job that names a model which is not there is refused before any work. Must not know
//! steps. Called by the engine at the start of each job.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::fault::{Fault, unavailable};
use super::itinerary::{Net, Roster, Stop};
use super::workspace::Precision;
use crate::config::ModelConfig;
use crate::engine::EngineError;
use crate::memory::{Handle, Memory, Spec};
use crate::models::birefnet::BiRefNet;
use crate::models::checkpoint::{
    Caches, CheckpointError, FluxCheckpoint, NetFiles, SdxlCheckpoint, SdxlControlNet, open_birefnet,
};
use crate::models::flux::{Conditioner, FluxConfig, Transformer};
use crate::models::ops::Rounding;
use crate::models::schedulers::{EulerDiscrete, FlowMatch};
use crate::models::sdxl::{ControlNet, Unet};
use crate::models::text_encoders::clip::ClipText;
use crate::models::text_encoders::t5::T5Encoder;
use crate::models::tokenizers::{Clip, T5};
use crate::models::vae::{Vae, VaeConfig};
use crate::models::weights::{Source, Weights};

/// What each family computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtypes {
    /// FLUX and its encoders.
    pub flux: DType,
    /// What the matrices of FLUX's blocks are kept in, if not in that.
    pub flux_blocks: Option<Rounding>,
    /// SDXL and its encoders.
    pub sdxl: DType,
    /// Segmentation.
    pub birefnet: DType,
}

impl Dtypes {
    /// `DTYPE` is FLUX's. SDXL and BiRefNet were published and are exact in f16, whose mantissa is longer than bf16's.
    pub fn of(dtype: DType, flux_blocks: Option<Rounding>) -> Self {
        let published = if dtype == DType::BF16 { DType::F16 } else { dtype };
        Self { flux: dtype, flux_blocks, sdxl: published, birefnet: published }
    }

    /// What it takes to compute so.
    pub fn precision(self) -> Precision {
        let bytes = |dtype: DType| dtype.size_in_bytes() as u64;
        Precision {
            flux: bytes(self.flux),
            widened: self.flux_blocks == Some(Rounding::Int8),
            sdxl: bytes(self.sdxl),
            birefnet: bytes(self.birefnet),
        }
    }
}

/// FLUX, known to memory.
pub struct FluxNets {
    pub(super) clip_tokenizer: Clip,
    pub(super) t5_tokenizer: T5,
    pub(super) clip: Handle<ClipText>,
    pub(super) t5: Handle<T5Encoder>,
    pub(super) conditioner: Handle<Conditioner>,
    pub(super) transformer: Handle<Transformer>,
    pub(super) transformer_config: FluxConfig,
    pub(super) vae: Handle<Vae>,
    pub(super) vae_config: VaeConfig,
    pub(super) scheduler: FlowMatch,
    /// Whether the distilled guidance is an input (dev) or not (schnell).
    pub(super) guidance: bool,
    pub(super) dtype: DType,
    /// Whether the transformer's blocks multiply in e4m3.
    pub(super) in_eight: bool,
}

/// SDXL, known to memory.
pub struct SdxlNets {
    pub(super) tokenizers: [Clip; 2],
    pub(super) encoders: [Handle<ClipText>; 2],
    pub(super) unet: Handle<Unet>,
    pub(super) vae: Handle<Vae>,
    pub(super) vae_config: VaeConfig,
    pub(super) scheduler: EulerDiscrete,
    pub(super) dtype: DType,
}

/// Everything that is configured, and what of it has been opened.
pub struct Nets {
    config: ModelConfig,
    caches: Caches,
    dtypes: Dtypes,
    device: Device,
    roster: Roster,
    flux: Option<FluxNets>,
    sdxl: Option<SdxlNets>,
    controlnet: Option<Handle<ControlNet>>,
    birefnet: Option<Handle<BiRefNet>>,
}

impl Nets {
    /// Opens nothing. Hub ids are looked up in `caches`.
    pub fn new(config: ModelConfig, caches: Caches, dtypes: Dtypes, device: Device) -> Self {
        Self {
            config,
            caches,
            dtypes,
            device,
            roster: Roster::new(),
            flux: None,
            sdxl: None,
            controlnet: None,
            birefnet: None,
        }
    }

    /// What each family computes in.
    pub fn dtypes(&self) -> Dtypes {
        self.dtypes
    }

    /// The numbers of all nets that have been opened.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Opens what `stops` visit and has not been opened yet; every tensor is checked, none is read.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], naming the variable to mend.
    pub fn open(&mut self, stops: &[Stop], memory: &mut Memory) -> Result<(), EngineError> {
        let visited = |nets: std::ops::RangeInclusive<Net>| {
            stops.iter().find(|stop| stop.nets.iter().any(|net| nets.contains(net))).map(|stop| stop.sub_step)
        };
        let device = self.device.clone();
        if let Some(sub_step) = visited(Net::FluxClip..=Net::FluxVae).filter(|_| self.flux.is_none()) {
            let source = &self.config.flux;
            let checkpoint = FluxCheckpoint::open(&source.model, &source.replacements(), &self.caches);
            let checkpoint = checkpoint.map_err(|error| unavailable("FLUX_MODEL", &error))?;
            let opened =
                self.register_flux(&checkpoint, memory).map_err(|fault| fault.at(sub_step, &device))?;
            self.flux = Some(opened);
        }
        if let Some(sub_step) = visited(Net::SdxlClipL..=Net::SdxlVae).filter(|_| self.sdxl.is_none()) {
            let source = &self.config.sdxl;
            let checkpoint = SdxlCheckpoint::open(&source.model, source.vae_of(&source.model), &self.caches);
            let checkpoint = checkpoint.map_err(|error| unavailable("SDXL_MODEL", &error))?;
            let opened =
                self.register_sdxl(&checkpoint, memory).map_err(|fault| fault.at(sub_step, &device))?;
            self.sdxl = Some(opened);
        }
        let steered = visited(Net::SdxlControlNet..=Net::SdxlControlNet);
        if let Some(sub_step) = steered.filter(|_| self.controlnet.is_none()) {
            let opened = SdxlControlNet::open(&self.config.sdxl.controlnet, &self.caches);
            let NetFiles { config, source } =
                opened.map_err(|error| unavailable("CONTROLNET_MODEL", &error))?;
            let mut registrar = Registrar { memory, roster: &mut self.roster };
            let handle = registrar
                .add(Net::SdxlControlNet, source, self.dtypes.sdxl, move |w| ControlNet::new(&config, w))
                .map_err(|fault| fault.at(sub_step, &device))?;
            self.controlnet = Some(handle);
        }
        let segments = visited(Net::BiRefNet..=Net::BiRefNet);
        if let Some(sub_step) = segments.filter(|_| self.birefnet.is_none()) {
            let opened = open_birefnet(&self.config.segmentation, &self.caches);
            let NetFiles { config, source } =
                opened.map_err(|error| unavailable("SEGMENTATION_MODEL", &error))?;
            let mut registrar = Registrar { memory, roster: &mut self.roster };
            let handle = registrar
                .add(Net::BiRefNet, source, self.dtypes.birefnet, move |w| BiRefNet::new(&config, w))
                .map_err(|fault| fault.at(sub_step, &device))?;
            self.birefnet = Some(handle);
        }
        Ok(())
    }

    pub(super) fn flux(&self) -> Result<&FluxNets, Fault> {
        self.flux.as_ref().ok_or_else(|| unopened("FLUX"))
    }

    pub(super) fn sdxl(&self) -> Result<&SdxlNets, Fault> {
        self.sdxl.as_ref().ok_or_else(|| unopened("SDXL"))
    }

    pub(super) fn controlnet(&self) -> Result<Handle<ControlNet>, Fault> {
        self.controlnet.ok_or_else(|| unopened("the ControlNet"))
    }

    pub(super) fn birefnet(&self) -> Result<Handle<BiRefNet>, Fault> {
        self.birefnet.ok_or_else(|| unopened("BiRefNet"))
    }

    fn register_flux(&mut self, files: &FluxCheckpoint, memory: &mut Memory) -> Result<FluxNets, Fault> {
        let dtype = self.dtypes.flux;
        let blocks = self.dtypes.flux_blocks;
        let mut registrar = Registrar { memory, roster: &mut self.roster };
        let FluxCheckpoint { transformer, text_encoder, text_encoder_2, vae, .. } = files.clone();
        let (flux, vae_config) = (transformer.config.clone(), vae.config.clone());
        let clip = registrar.add(Net::FluxClip, text_encoder.source, dtype, move |w| {
            ClipText::new(&text_encoder.config, w)
        })?;
        let t5 = registrar.add(Net::FluxT5, text_encoder_2.source, dtype, move |w| {
            T5Encoder::new(&text_encoder_2.config, w)
        })?;
        let conditioner =
            registrar.add(Net::FluxConditioner, Arc::clone(&transformer.source), dtype, move |w| {
                Conditioner::new(&flux, w)
            })?;
        let guidance = transformer.config.guidance_embeds;
        let transformer_config = transformer.config.clone();
        let transformer = registrar.add(Net::FluxTransformer, transformer.source, dtype, move |w| {
            Transformer::new(&transformer.config, &w.in_eight(blocks))
        })?;
        let vae = registrar
            .add(Net::FluxVae, vae.source, vae.config.safe_dtype(dtype), move |w| Vae::new(&vae.config, w))?;
        Ok(FluxNets {
            transformer_config,
            clip_tokenizer: Clip::from_folder(&files.tokenizer)?,
            t5_tokenizer: T5::from_folder(&files.tokenizer_2)?,
            clip,
            t5,
            conditioner,
            transformer,
            vae,
            vae_config,
            scheduler: FlowMatch::new(files.scheduler.clone()).map_err(crate::models::PipelineError::from)?,
            guidance,
            dtype,
            in_eight: blocks == Some(Rounding::E4m3),
        })
    }

    fn register_sdxl(&mut self, files: &SdxlCheckpoint, memory: &mut Memory) -> Result<SdxlNets, Fault> {
        let dtype = self.dtypes.sdxl;
        let mut registrar = Registrar { memory, roster: &mut self.roster };
        let SdxlCheckpoint { unet, text_encoder, text_encoder_2, vae, .. } = files.clone();
        let vae_config = vae.config.clone();
        let first = registrar.add(Net::SdxlClipL, text_encoder.source, dtype, move |w| {
            ClipText::new(&text_encoder.config, w)
        })?;
        let second = registrar.add(Net::SdxlClipG, text_encoder_2.source, dtype, move |w| {
            ClipText::new(&text_encoder_2.config, w)
        })?;
        let unet = registrar.add(Net::SdxlUnet, unet.source, dtype, move |w| Unet::new(&unet.config, w))?;
        let vae = registrar
            .add(Net::SdxlVae, vae.source, vae.config.safe_dtype(dtype), move |w| Vae::new(&vae.config, w))?;
        Ok(SdxlNets {
            tokenizers: [Clip::from_folder(&files.tokenizer)?, Clip::from_folder(&files.tokenizer_2)?],
            encoders: [first, second],
            unet,
            vae,
            vae_config,
            scheduler: EulerDiscrete::new(files.scheduler.clone())
                .map_err(crate::models::PipelineError::from)?,
            dtype,
        })
    }
}

/// Makes nets known to memory under their numbers.
struct Registrar<'a> {
    memory: &'a mut Memory,
    roster: &'a mut Roster,
}

impl Registrar<'_> {
    fn add<T: Send + Sync + 'static>(
        &mut self,
        net: Net,
        source: Arc<dyn Source>,
        dtype: DType,
        build: impl Fn(&Weights) -> candle_core::Result<T> + Send + 'static,
    ) -> Result<Handle<T>, Fault> {
        let spec = Spec { name: net.name().to_owned(), source, dtype };
        let handle = self.memory.register(spec, build)?;
        self.roster.add(net, handle.id());
        Ok(handle)
    }
}

fn unopened(what: &str) -> Fault {
    Fault::Defect(format!("{what} is used by a step that its itinerary does not visit"))
}

/// Every configured model that cannot be opened, by the variable that names it; nothing is kept.
pub fn missing(config: &ModelConfig, caches: &Caches) -> Vec<(&'static str, CheckpointError)> {
    let ModelConfig { flux, sdxl, segmentation, .. } = config;
    let opened = [
        ("FLUX_MODEL", FluxCheckpoint::open(&flux.model, &flux.replacements(), caches).err()),
        ("SDXL_MODEL", SdxlCheckpoint::open(&sdxl.model, sdxl.vae_of(&sdxl.model), caches).err()),
        ("CONTROLNET_MODEL", SdxlControlNet::open(&sdxl.controlnet, caches).err()),
        ("SEGMENTATION_MODEL", open_birefnet(segmentation, caches).err()),
    ];
    opened.into_iter().filter_map(|(variable, error)| Some((variable, error?))).collect()
}

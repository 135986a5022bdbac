//! Which nets a job visits, in order, and what computing takes beside their weights. Pure: no device, no candle.
//!
//! The engine walks these stops one by one ([`super::journey`] refuses any other order); `marquee plan` prints what memory
//! makes of them. Two orders are decided here: all prompts that FLUX will need are read before its first denoising, so that
//! text encoders and conditioner are visited once a job; and a VAE is only visited where pixels come or go.

use std::collections::HashMap;

use super::runs::flux_runs;
use super::workspace::{Precision, Workspace};
use crate::input::Plan;
use crate::input::plan::{BackgroundModel, CompositionMode};
use crate::memory::{self, ModelId, Visit, timetable};
use crate::progress::SubStep;

/// A net of the pipeline.
#[expect(clippy::enum_variant_names, reason = "ControlNet and BiRefNet are proper names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Net {
    /// CLIP-L, for FLUX's pooled vector.
    FluxClip,
    /// T5-XXL.
    FluxT5,
    /// FLUX's timestep, guidance and modulation layers.
    FluxConditioner,
    /// FLUX's blocks.
    FluxTransformer,
    /// FLUX's autoencoder.
    FluxVae,
    /// CLIP-L, for SDXL.
    SdxlClipL,
    /// OpenCLIP bigG.
    SdxlClipG,
    /// SDXL's denoiser.
    SdxlUnet,
    /// What steers it.
    SdxlControlNet,
    /// SDXL's autoencoder.
    SdxlVae,
    /// Segmentation.
    BiRefNet,
}

impl Net {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::FluxClip,
        Self::FluxT5,
        Self::FluxConditioner,
        Self::FluxTransformer,
        Self::FluxVae,
        Self::SdxlClipL,
        Self::SdxlClipG,
        Self::SdxlUnet,
        Self::SdxlControlNet,
        Self::SdxlVae,
        Self::BiRefNet,
    ];

    /// The name in logs, reports and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::FluxClip => "FLUX CLIP",
            Self::FluxT5 => "FLUX T5",
            Self::FluxConditioner => "FLUX conditioner",
            Self::FluxTransformer => "FLUX transformer",
            Self::FluxVae => "FLUX VAE",
            Self::SdxlClipL => "SDXL CLIP-L",
            Self::SdxlClipG => "SDXL CLIP-G",
            Self::SdxlUnet => "SDXL UNet",
            Self::SdxlControlNet => "SDXL ControlNet",
            Self::SdxlVae => "SDXL VAE",
            Self::BiRefNet => "BiRefNet",
        }
    }
}

/// What is done at a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// A picture's subject is found.
    Segment,
    /// FLUX's prompts through CLIP.
    ReadPooled,
    /// FLUX's prompts through T5.
    ReadWords,
    /// FLUX's modulation tables for all runs.
    Tables,
    /// SDXL's prompts through both of its encoders.
    Read,
    /// A picture becomes latents.
    Encode,
    /// The denoise steps.
    Denoise,
    /// Latents become a picture.
    Decode,
}

impl Act {
    fn words(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::ReadPooled => "read prompts with CLIP",
            Self::ReadWords => "read prompts with T5",
            Self::Tables => "modulation tables",
            Self::Read => "read prompts",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// A stretch of work on a fixed set of nets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Part of this.
    pub sub_step: SubStep,
    /// What is done.
    pub act: Act,
    /// By which nets.
    pub nets: Vec<Net>,
    /// Bytes that computing takes beside the weights, at its peak.
    pub work: u64,
}

impl Stop {
    /// `background_generation: denoise`.
    pub fn label(&self) -> String {
        format!("{}: {}", self.sub_step, self.act.words())
    }
}

/// All stops of a job, in order. `known` says that none of FLUX's prompts has to be read: its encoders are not visited.
pub fn stops(plan: &Plan, precision: Precision, known: bool) -> Vec<Stop> {
    let mut road = Road { stops: Vec::new(), work: Workspace::new(plan, precision), known, read: false };
    let runs = flux_runs(plan);
    let paints = |sub_step| runs.iter().any(|run| run.sub_step == sub_step);
    if let Some(background) = &plan.background {
        let product = background.product.as_ref();
        if product.is_some_and(|product| !super::cut_out::is_cut_out(&product.image)) {
            road.add(SubStep::Segmentation, Act::Segment, &[Net::BiRefNet]);
        }
        match background.model {
            BackgroundModel::Flux => road.flux(SubStep::BackgroundGeneration, false),
            BackgroundModel::Sdxl => road.sdxl(SubStep::BackgroundGeneration, false),
        }
        if paints(SubStep::FeatureInjection) {
            road.flux(SubStep::FeatureInjection, true);
        }
    }
    if let Some(text) = &plan.text {
        road.sdxl(SubStep::TextGeneration, text.controlnet_conditioning_scale > 0.0);
        road.add(SubStep::TextSegmentation, Act::Segment, &[Net::BiRefNet]);
    }
    if let Some(composition) = &plan.composition {
        if composition.mode == CompositionMode::Behind {
            road.add(SubStep::Composition, Act::Segment, &[Net::BiRefNet]);
        }
        if paints(SubStep::Composition) {
            road.flux(SubStep::Composition, true);
        }
    }
    road.stops
}

struct Road {
    stops: Vec<Stop>,
    work: Workspace,
    /// Whether FLUX's prompts were read for an earlier job.
    known: bool,
    /// Whether they have been read, or are known, and their tables made.
    read: bool,
}

impl Road {
    fn add(&mut self, sub_step: SubStep, act: Act, nets: &[Net]) {
        let kept = if self.read { self.work.tables() } else { 0 };
        let work = kept + self.work.of(act, nets);
        self.stops.push(Stop { sub_step, act, nets: nets.to_vec(), work });
    }

    fn flux(&mut self, sub_step: SubStep, from_picture: bool) {
        if !self.read {
            if !self.known {
                self.add(sub_step, Act::ReadPooled, &[Net::FluxClip]);
                self.add(sub_step, Act::ReadWords, &[Net::FluxT5]);
            }
            self.read = true;
            self.add(sub_step, Act::Tables, &[Net::FluxConditioner]);
        }
        if from_picture {
            self.add(sub_step, Act::Encode, &[Net::FluxVae]);
        }
        self.add(sub_step, Act::Denoise, &[Net::FluxTransformer]);
        self.add(sub_step, Act::Decode, &[Net::FluxVae]);
    }

    fn sdxl(&mut self, sub_step: SubStep, steered: bool) {
        self.add(sub_step, Act::Read, &[Net::SdxlClipL, Net::SdxlClipG]);
        let denoisers = [Net::SdxlUnet, Net::SdxlControlNet];
        self.add(sub_step, Act::Denoise, if steered { &denoisers } else { &denoisers[..1] });
        self.add(sub_step, Act::Decode, &[Net::SdxlVae]);
    }
}

/// The numbers that memory knows the nets by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster(HashMap<Net, ModelId>);

impl Roster {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every net, numbered in the order of [`Net::ALL`].
    pub fn numbered() -> Self {
        Self(Net::ALL.into_iter().enumerate().map(|(index, net)| (net, ModelId(index))).collect())
    }

    /// `net` is known as `id`.
    pub fn add(&mut self, net: Net, id: ModelId) {
        self.0.insert(net, id);
    }

    /// Its number, once it has one.
    pub fn get(&self, net: Net) -> Option<ModelId> {
        self.0.get(&net).copied()
    }
}

/// What memory is told of a job: its stops as visits, and `auto_unload`'s timetable. Nets that `roster` lacks are left out.
pub fn itinerary(plan: &Plan, stops: &[Stop], roster: &Roster) -> memory::Itinerary {
    let visit = |stop: &Stop| Visit {
        label: stop.label(),
        models: stop.nets.iter().filter_map(|net| roster.get(*net)).collect(),
        work: stop.work,
        step: stop.sub_step.step().number(),
    };
    memory::Itinerary { visits: stops.iter().map(visit).collect(), rules: timetable(plan.auto_unload) }
}

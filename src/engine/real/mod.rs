//! The engine with nets: the three steps on FLUX, SDXL and BiRefNet.
//!
//! A job is planned before it is begun: [`itinerary`] lists the nets it visits, [`nets`] opens their checkpoints, and
//! [`crate::memory`] refuses what cannot fit. Then the [`steps`] run, each on the nets that its stop has on the device
//! ([`journey`]). Pictures depend on the plan alone: draws are [`seeds`]'s, and where a net was before does not enter its
//! arithmetic. Must not know jobs or networks. Called through [`Engine`].

pub mod cut_out;
pub mod fault;
mod flux;
pub mod itinerary;
mod journey;
pub mod known;
pub mod nets;
pub mod runs;
mod sdxl;
pub mod seeds;
pub mod sizes;
pub mod steps;
mod studio;
mod watch;
pub mod workspace;

use std::sync::Arc;
use std::thread;

use candle_core::{DType, Device};
use serde_json::Value;

use super::{Artifacts, Ctx, Engine, EngineError, show, supplied};
use crate::config::ModelConfig;
use crate::imaging::fonts::FontLibrary;
use crate::input::Plan;
use crate::memory::{Limits, Memory, MemoryError};
use crate::models::checkpoint::Caches;
use crate::models::ops::Rounding;
use crate::progress::{Step, SubStep};
use fault::Fault;
use itinerary::{itinerary, stops};
use journey::Journey;
use known::KnownPrompts;
use nets::{Dtypes, Nets};
use runs::{FluxRun, flux_runs};
use steps::Composed;
use studio::Studio;

/// What an engine is made of.
pub struct Setup {
    /// Which checkpoints.
    pub models: ModelConfig,
    /// Where Hub ids are looked up.
    pub caches: Caches,
    /// For the phrase.
    pub fonts: Arc<FontLibrary>,
    /// Where nets compute.
    pub device: Device,
    /// FLUX's compute dtype; the others' follow from it ([`Dtypes`]).
    pub dtype: DType,
    /// What the matrices of FLUX's blocks are kept in, if not in that.
    pub quantisation: Option<Rounding>,
    /// What memory may use.
    pub limits: Limits,
}

/// Paints with nets.
pub struct RealEngine {
    nets: Nets,
    memory: Memory,
    fonts: Arc<FontLibrary>,
    device: Device,
    known: KnownPrompts,
    /// The driver's words, once the device is lost: nothing runs on it any more.
    lost: Option<String>,
}

impl RealEngine {
    /// Opens no checkpoint.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn new(setup: Setup) -> Result<Self, MemoryError> {
        let Setup { models, caches, fonts, device, dtype, quantisation, limits } = setup;
        let memory = Memory::new(&device, limits)?;
        let nets = Nets::new(models, caches, Dtypes::of(dtype, quantisation), device.clone());
        Ok(Self { nets, memory, fonts, device, known: KnownPrompts::default(), lost: None })
    }

    fn prepare(&mut self, plan: &Plan, stops: &[itinerary::Stop]) -> Result<(), EngineError> {
        self.nets.open(stops, &mut self.memory)?;
        let first = stops.first().map_or(SubStep::TextCanvas, |stop| stop.sub_step);
        let announced = self.memory.begin(itinerary(plan, stops, self.nets.roster()));
        announced.map_err(|error| Fault::from(error).at(first, &self.device))
    }
}

impl Engine for RealEngine {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        let runs = flux_runs(plan);
        let known = self.known.all(runs.iter().flat_map(FluxRun::texts));
        let stops = stops(plan, self.nets.dtypes().precision(), known);
        if let Some(message) = &self.lost {
            let sub_step = plan.sub_steps().first().map_or(SubStep::Composition, |(first, _)| *first);
            return Err(EngineError::DeviceLost { sub_step, message: message.clone() });
        }
        ctx.check()?;
        self.prepare(plan, &stops)?;
        let journey = Journey::new(&mut self.memory, ctx, &self.device, stops, plan.sub_steps());
        let (nets, known, fonts) = (&self.nets, &mut self.known, &self.fonts);
        let ran = thread::scope(|scope| {
            let phrase = plan.text.as_ref().map(|text| scope.spawn(move || steps::canvas(fonts, plan, text)));
            run(Studio::new(plan, nets, known, phrase), journey, plan)
        });
        // Whatever happened, what may not stay leaves now.
        let report = self.memory.finish();
        match &ran {
            Ok(artifacts) => self.lost.clone_from(&artifacts.device_lost),
            Err(EngineError::DeviceLost { message, .. }) => self.lost = Some(message.clone()),
            Err(_) => {}
        }
        let mut artifacts = ran?;
        artifacts.memory = serde_json::to_value(report).unwrap_or(Value::Null);
        Ok(artifacts)
    }
}

/// The steps that `plan` asks for.
fn run(mut studio: Studio<'_>, mut journey: Journey<'_>, plan: &Plan) -> Result<Artifacts, EngineError> {
    let mut artifacts = Artifacts::default();
    let background = match &plan.background {
        Some(background) => Some(steps::background(&mut studio, &mut journey, background)?),
        None => None,
    };
    show(journey.ctx(), Step::Background, background.as_ref());
    let text = match &plan.text {
        Some(text) => Some(steps::text(&mut studio, &mut journey, text)?),
        None => None,
    };
    show(journey.ctx(), Step::Text, text.as_ref());
    if plan.text.is_some() {
        journey.step_done(2);
    }
    let mut merged = None;
    if let Some(composition) = &plan.composition {
        let background = supplied(background.as_ref().or(plan.step1_image.as_ref()), "step1_image", plan)?;
        let text = supplied(text.as_ref().or(plan.step2_image.as_ref()), "step2_image", plan)?;
        let Composed { image, lost } =
            steps::compose(&mut studio, &mut journey, composition, background, text)?;
        journey.ctx().picture(Step::Composition, &image);
        merged = Some(image);
        artifacts.device_lost = lost;
    }
    artifacts.warnings = journey.warnings;
    artifacts.timings = journey.timings;
    artifacts.step1 = background.map(Into::into);
    artifacts.step2 = text.map(Into::into);
    artifacts.final_image =
        merged.map(Into::into).or_else(|| artifacts.step2.clone()).or_else(|| artifacts.step1.clone());
    Ok(artifacts)
}

//! Carries a schedule out: which net is on the device now, and how it got there.
//!
//! One for the life of an engine, on the engine's thread. Callers: the engine.

mod carry;
mod relief;
mod settling;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult};

use super::budget::{Room, host_budget};
use super::driver::{Driver, Real};
use super::model::{Model, Net};
use super::reader::Reader;
use super::report::{Report, VisitReport};
use super::schedule::{self, Itinerary, ModelId, Move, Stage, Standing, Terms};
use super::shelf::Shelf;
use super::store::Store;
use super::stored::Stored;
use super::transfer::{Mark, Transfer};
use super::{Handle, Lease, Limit, MemoryError};
use crate::config::EngineConfig;
use crate::input::plan::AutoUnload;
use crate::models::weights::{Source, Weights};
use settling::Settling;

/// `GPU_BUDGET`, `HOST_BUDGET`, `HOST_PACKING`, `AUTO_UNLOAD_THRESHOLD`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Of the device's memory; `None`: what the driver says is free, or no limit where there is no driver.
    pub gpu: Option<Limit>,
    /// For host copies of weights; `None`: half of what the machine has available, or nothing where weights are computed
    /// with in main memory anyway.
    pub host: Option<Limit>,
    /// Whether host copies are packed; `None`: for a card.
    pub packing: Option<bool>,
    /// Share of the budget above which `auto` evicts.
    pub threshold: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { gpu: None, host: None, packing: None, threshold: 0.9 }
    }
}

impl From<&EngineConfig> for Limits {
    fn from(config: &EngineConfig) -> Self {
        Self {
            gpu: config.gpu_budget,
            host: config.host_budget,
            packing: config.host_packing,
            threshold: config.auto_unload_threshold,
        }
    }
}

/// A model before it is anywhere: its tensors on disk and what they become.
#[derive(Clone)]
pub struct Spec {
    /// In logs, reports and errors: `FLUX T5`.
    pub name: String,
    /// Its tensors.
    pub source: Arc<dyn Source>,
    /// What it computes in.
    pub dtype: DType,
}

/// All models of a process and where they are.
pub struct Memory {
    device: Device,
    driver: Arc<dyn Driver>,
    settling: Option<Settling>,
    transfer: Transfer,
    limits: Limits,
    room: Room,
    host_budget: Option<u64>,
    models: Vec<Model>,
    reader: Reader,
    request: Request,
    report: Report,
    /// Bytes that were freed and that the driver may not count as free before the next synchronisation.
    unsettled: u64,
}

/// The request under way.
#[derive(Default)]
struct Request {
    itinerary: Itinerary,
    /// What the schedule reckons with.
    budget: Option<u64>,
    /// Of the visits ahead.
    stages: VecDeque<Stage>,
    /// Index of the first visit ahead.
    next: usize,
    /// What was to come in while the current visit computes and could not yet.
    pending: VecDeque<Move>,
    /// Reads and forgettings ahead, in order.
    host_moves: VecDeque<Move>,
    /// Whether the current visit was begun anew already.
    relieved: bool,
    /// Copies whose time is not known yet.
    carriages: Vec<Carriage>,
    /// Bytes of freed activations that the allocator may hold on to; 0 where the plan leaves no room for them.
    kept: u64,
}

/// A copy to the device that may still be running.
struct Carriage {
    /// Index among the report's moves.
    at: usize,
    begun: Mark,
    ended: Mark,
}

impl Memory {
    /// Nothing is loaded.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn new(device: &Device, limits: Limits) -> Result<Self, MemoryError> {
        Self::with_driver(device, limits, Box::new(Real(device.clone())))
    }

    /// [`Memory::new`] with somebody else counting the device's bytes.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn with_driver(
        device: &Device,
        limits: Limits,
        driver: Box<dyn Driver>,
    ) -> Result<Self, MemoryError> {
        let usage = driver.usage().map_err(|source| MemoryError::of("the device's memory", source))?;
        let transfer = Transfer::new(device).map_err(|source| MemoryError::of("the device", source))?;
        Ok(Self {
            device: device.clone(),
            room: Room::new(limits.gpu, usage),
            host_budget: host_budget(limits.host, device.is_cpu()),
            driver: driver.into(),
            settling: None,
            transfer,
            limits,
            models: Vec::new(),
            reader: Reader::new(),
            request: Request::default(),
            report: Report::default(),
            unsettled: 0,
        })
    }

    /// Makes a model known. Costs a run of `build` on a probe; loads nothing.
    ///
    /// # Errors
    /// `build` does not accept its own configuration, or the source lacks a tensor.
    pub fn register<T: Send + Sync + 'static>(
        &mut self,
        spec: Spec,
        build: impl Fn(&Weights) -> TensorResult<T> + Send + 'static,
    ) -> Result<Handle<T>, MemoryError> {
        let store = Store::new(&spec.name, spec.source, spec.dtype, &self.device, |w| build(w).map(drop));
        let mut store = store.map_err(|source| MemoryError::of(&spec.name, source))?;
        if let Some(packs) = self.limits.packing {
            store = store.packing(packs);
        }
        Ok(self.register_shelf(Arc::new(Stored::new(store, self.transfer.clone())), build))
    }

    /// [`Memory::register`] for weights that come from elsewhere than a checkpoint.
    pub fn register_shelf<T: Send + Sync + 'static>(
        &mut self,
        shelf: Arc<dyn Shelf>,
        build: impl Fn(&Weights) -> TensorResult<T> + Send + 'static,
    ) -> Handle<T> {
        let id = ModelId(self.models.len());
        let build = Box::new(move |weights: &Weights| Ok(Arc::new(build(weights)?) as Net));
        self.models.push(Model::new(shelf, build));
        Handle { id, kind: PhantomData }
    }

    /// Announces a request and plans all of its moves. Refused here, before anything moves, if it cannot fit. A request that
    /// was not finished is.
    ///
    /// # Errors
    /// [`MemoryError::CannotFit`], [`MemoryError::DeviceLost`].
    pub fn begin(&mut self, itinerary: Itinerary) -> Result<(), MemoryError> {
        if !self.request.itinerary.visits.is_empty() {
            self.finish();
        }
        let budget = self.budget()?;
        // Of the time since the last request, which no report tells.
        self.note_reads();
        for model in &mut self.models {
            model.steps.clear();
        }
        self.report = Report { budget_bytes: budget, ..Report::default() };
        self.plan(itinerary, budget)
    }

    fn plan(&mut self, itinerary: Itinerary, budget: Option<u64>) -> Result<(), MemoryError> {
        let sizes: Vec<_> = self.models.iter().map(Model::size_now).collect();
        let standing: Vec<Standing> = self
            .models
            .iter()
            .enumerate()
            .map(|(index, model)| model.standing(self.reader.is_open(ModelId(index))))
            .collect();
        let terms =
            Terms { budget, host_budget: self.host_budget, threshold: self.limits.threshold, prefetch: true };
        let plan = schedule::plan(&sizes, &standing, &itinerary, &terms)?;
        // What the largest visit computes in, if it has room beside everything else: taking it anew for each picture costs
        // milliseconds each time.
        let work = itinerary.visits.iter().map(|visit| visit.work).max().unwrap_or(0);
        let spare = budget.map_or(0, |budget| budget.saturating_sub(plan.peak));
        let kept = if spare >= work { work } else { 0 };
        self.driver.keep(kept).map_err(|source| MemoryError::of("the device's memory", source))?;
        let host = |step: &&Move| matches!(step.action, schedule::Action::Read | schedule::Action::Forget);
        let steps = plan.stages.iter().flat_map(|stage| stage.before.iter().chain(&stage.during));
        self.request = Request {
            host_moves: steps.filter(host).cloned().collect(),
            itinerary,
            budget,
            stages: plan.stages.into(),
            carriages: std::mem::take(&mut self.request.carriages),
            kept,
            ..Request::default()
        };
        Ok(())
    }

    /// The next visit: what it needs comes in, what has to make room for it leaves, and what the visits after it need begins
    /// to come in beside the computing.
    ///
    /// # Errors
    /// As [`Memory::enter_while`].
    pub fn enter(&mut self) -> Result<(), MemoryError> {
        self.enter_while(&|| true)
    }

    /// [`Memory::enter`], given up once `go_on` says no while weights are read from disk.
    ///
    /// # Errors
    /// No visit is left, the weights cannot be read, the device is full even after all that has no use was freed, or lost.
    pub fn enter_while(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        let Some(mut stage) = self.request.stages.pop_front() else {
            return Err(MemoryError::OutOfOrder("a visit that was not announced".to_owned()));
        };
        self.request.next += 1;
        self.request.relieved = false;
        let due = std::mem::take(&mut stage.due);
        let entered = self
            .let_go()
            .and_then(|()| self.finish_pending(go_on))
            .and_then(|()| self.depart(due))
            .and_then(|()| self.bring_in(&stage, go_on));
        match entered {
            Err(MemoryError::OutOfMemory(full)) => self.relieve(*full, go_on)?,
            other => {
                other?;
                self.settle_in(stage)?;
            }
        }
        Ok(())
    }

    /// The current visit ran out of memory while it computed, because somebody else took what the plan reckoned with.
    /// Frees all that has no use, plans the rest of the request under what the driver says is free, and enters the visit
    /// anew. Its leases must have been dropped. Once a visit.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] if that was tried already or cannot help; `reason` is the driver's words.
    pub fn again(&mut self, reason: &str, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        let full = self.full("computing", 0, reason);
        self.relieve(full, go_on)
    }

    /// A net of the current visit. It stays on the device while the lease lives.
    ///
    /// # Errors
    /// The current visit did not name it.
    pub fn lease<T: Send + Sync + 'static>(&mut self, handle: Handle<T>) -> Result<Lease<T>, MemoryError> {
        let model = self.models.get(handle.id.0);
        let visited = self.visit().is_some_and(|visit| visit.models.contains(&handle.id));
        let net = model.filter(|_| visited).and_then(Model::net).and_then(Lease::new);
        net.ok_or_else(|| {
            let name = model.map_or("a model of another memory", Model::name);
            MemoryError::OutOfOrder(format!("{name} is leased outside of a visit that names it"))
        })
    }

    fn visit(&self) -> Option<&schedule::Visit> {
        self.request.itinerary.visits.get(self.request.next.checked_sub(1)?)
    }

    /// The steps up to `step` are done: what may stay no longer leaves now instead of at the next visit.
    pub fn step_done(&mut self, step: u8) {
        let ahead = self.request.itinerary.visits.get(self.request.next);
        if ahead.is_some_and(|visit| visit.step <= step) {
            return;
        }
        // After the last visit `finish` does it.
        let Some(stage) = self.request.stages.front_mut() else { return };
        let due = std::mem::take(&mut stage.due);
        // A device that is lost now says so at the next call.
        if let Err(error) = self.depart_behind(due) {
            tracing::warn!("the models of step {step} could not be unloaded: {error}");
        }
    }

    /// Frees `models` that nobody leases, now.
    ///
    /// # Errors
    /// The device is lost.
    pub fn unload(&mut self, label: &str, models: &[ModelId]) -> Result<(), MemoryError> {
        self.free_all(label, models)?;
        self.settle()?;
        self.log(&format!("After {label} unload"));
        Ok(())
    }

    fn free_all(&mut self, label: &str, models: &[ModelId]) -> Result<(), MemoryError> {
        self.log(&format!("Before {label} unload"));
        models.iter().try_for_each(|id| {
            let all = self.models.get(id.0).map_or(0, |model| model.size.pieces.len());
            self.free(*id, &(0..all).collect::<Vec<_>>())
        })
    }

    /// The request is over, well or not: what may stay no longer leaves; what happened is told. What is leased still stays.
    pub fn finish(&mut self) -> Report {
        self.note_reads();
        let request = std::mem::take(&mut self.request);
        for Carriage { at, begun, ended } in &request.carriages {
            if let (Some(entry), Some(seconds)) = (self.report.moves.get_mut(*at), ended.seconds_since(begun))
            {
                entry.seconds = Some(seconds);
            }
        }
        for (label, models) in self.leaving(&request) {
            // A device that is lost now says so at the next call.
            if let Err(error) = self.unload(&label, &models) {
                tracing::warn!("{label} could not be unloaded: {error}");
            }
        }
        if let Err(error) = self.wait_settled() {
            tracing::warn!("freed memory is not back: {error}");
        }
        // Between requests nothing is kept but models.
        if let Err(error) = self.driver.keep(0) {
            tracing::warn!("freed memory could not be given back: {error}");
        }
        std::mem::take(&mut self.report)
    }

    /// Waits until no copy in main memory is being made any more: they are made beside the computing and between requests.
    pub fn wait_for_host_copies(&self) {
        self.reader.wait_for_all();
    }

    /// Models that may not outlive `request`, by the label of the rule that says so.
    fn leaving(&self, request: &Request) -> Vec<(String, Vec<ModelId>)> {
        let Itinerary { visits, rules } = &request.itinerary;
        let nothing_stays = !rules.is_empty() && rules.iter().all(|rule| rule.unload == AutoUnload::Yes);
        let mut all: Vec<(String, Vec<ModelId>)> = Vec::new();
        for (index, model) in self.models.iter().enumerate().filter(|(_, model)| model.bytes() > 0) {
            // What came early for a visit that never was is judged by that visit's step.
            let ahead = visits.iter().skip(request.next).find(|visit| visit.models.contains(&ModelId(index)));
            let used = |step: u8| {
                model.steps.contains(&step)
                    || (model.steps.is_empty() && ahead.is_some_and(|visit| visit.step == step))
            };
            let rule = rules.iter().find(|rule| rule.unload == AutoUnload::Yes && used(rule.step));
            let label = match rule {
                Some(rule) => rule.label.as_str(),
                None if nothing_stays => "idle models",
                None => continue,
            };
            match all.iter_mut().find(|(other, _)| other == label) {
                Some((_, models)) => models.push(ModelId(index)),
                None => all.push((label.to_owned(), vec![ModelId(index)])),
            }
        }
        all
    }

    /// Where nothing may be kept, what the last visit computed in is back before the next one takes its own: the two would
    /// not fit into one another's gaps.
    fn let_go(&mut self) -> Result<(), MemoryError> {
        if self.request.budget.is_some() && self.request.kept == 0 { self.settle() } else { Ok(()) }
    }

    /// Bytes of weights on the device.
    pub fn allocated(&self) -> u64 {
        self.models.iter().map(Model::bytes).sum()
    }

    /// Bytes for weights and computing: what is configured, but never more than the driver has.
    fn budget(&self) -> Result<Option<u64>, MemoryError> {
        let usage = self.driver.usage().map_err(|source| MemoryError::of("the device's memory", source))?;
        Ok(self.room.now(usage, self.allocated()))
    }

    /// The visit has its models: it is noted, and what comes next sets out.
    fn settle_in(&mut self, stage: Stage) -> Result<(), MemoryError> {
        if let Some(visit) = self.visit().cloned() {
            for id in &visit.models {
                if let Some(model) = self.models.get_mut(id.0) {
                    let of_this = |streaming: &&schedule::Streaming| streaming.model == *id;
                    let streaming = stage.streaming.iter().find(of_this);
                    let streamed = streaming.map(|streaming| streaming.pieces.as_slice()).unwrap_or_default();
                    model
                        .build(streamed)
                        .map_err(|source| MemoryError::of(&model.size.name.clone(), source))?;
                    if !model.steps.contains(&visit.step) {
                        model.steps.push(visit.step);
                    }
                }
            }
            let resident_bytes = self.allocated();
            self.report.visits.push(VisitReport {
                label: visit.label,
                step: visit.step,
                resident_bytes,
                work_bytes: visit.work,
                streamed_bytes: stage.streaming.iter().map(|streaming| streaming.bytes).sum(),
            });
            self.set_out(stage.during)?;
            // Not earlier: what this visit needs comes first.
            self.read_ahead();
            self.report.peak_bytes = self.report.peak_bytes.max(self.allocated() + visit.work);
        }
        Ok(())
    }
}

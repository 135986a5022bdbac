//! Carries a schedule out: which net is on the device now.

use std::any::Any;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Result as TensorResult};

use super::report::{MoveReport, Place, VisitReport};
use super::schedule::{Itinerary, ModelId, Visit};
use super::{Handle, Lease, Limit, MemoryError, Report, StepRule, log_gpu_memory};
use crate::config::EngineConfig;
use crate::input::plan::AutoUnload;
use crate::models::weights::{Probe, Source, Weights};

/// `GPU_BUDGET`, `HOST_BUDGET`, `AUTO_UNLOAD_THRESHOLD`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Of the device's memory; `None`: what the driver says is free at the start.
    pub gpu: Option<Limit>,
    /// For host copies of weights; `None`: half of the machine's memory.
    pub host: Option<Limit>,
    /// Share of the budget above which `auto` evicts.
    pub threshold: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { gpu: None, host: None, threshold: 0.9 }
    }
}

impl From<&EngineConfig> for Limits {
    fn from(config: &EngineConfig) -> Self {
        Self { gpu: config.gpu_budget, host: config.host_budget, threshold: config.auto_unload_threshold }
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

type Net = Arc<dyn Any + Send + Sync>;
type Build = Box<dyn Fn(&Weights) -> TensorResult<Net> + Send>;

struct Model {
    spec: Spec,
    bytes: u64,
    build: Build,
    net: Option<Net>,
    /// Steps that used it since it came.
    steps: Vec<u8>,
}

/// All models of a process and where they are. Lives on the engine's thread.
pub struct Memory {
    device: Device,
    limits: Limits,
    models: Vec<Model>,
    ahead: VecDeque<Visit>,
    rules: Vec<StepRule>,
    report: Report,
}

impl Memory {
    /// Nothing is loaded.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn new(device: &Device, limits: Limits) -> Result<Self, MemoryError> {
        Ok(Self {
            device: device.clone(),
            limits,
            models: Vec::new(),
            ahead: VecDeque::new(),
            rules: Vec::new(),
            report: Report::default(),
        })
    }

    /// The limits it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Makes a model known. Costs a run of `build` on a probe; loads nothing.
    ///
    /// # Errors
    /// `build` does not accept its own configuration.
    pub fn register<T: Send + Sync + 'static>(
        &mut self,
        spec: Spec,
        build: impl Fn(&Weights) -> TensorResult<T> + Send + 'static,
    ) -> Result<Handle<T>, MemoryError> {
        let build: Build = Box::new(move |weights| Ok(Arc::new(build(weights)?) as Net));
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe))
            .map_err(|source| MemoryError::Load { model: spec.name.clone(), source })?;
        let bytes = probe
            .expected()
            .iter()
            .map(|tensor| (tensor.shape.iter().product::<usize>() * spec.dtype.size_in_bytes()) as u64)
            .sum();
        let id = ModelId(self.models.len());
        self.models.push(Model { spec, bytes, build, net: None, steps: Vec::new() });
        Ok(Handle { id, kind: PhantomData })
    }

    /// Announces a request. Refused here, before anything moves, if it cannot fit.
    ///
    /// # Errors
    /// [`MemoryError::CannotFit`].
    pub fn begin(&mut self, itinerary: Itinerary) -> Result<(), MemoryError> {
        self.ahead = itinerary.visits.into();
        self.rules = itinerary.rules;
        self.report = Report::default();
        for model in &mut self.models {
            model.steps.clear();
        }
        Ok(())
    }

    /// The next visit: what it needs comes in, what has to make room for it leaves.
    ///
    /// # Errors
    /// No visit is left, the weights cannot be read, the device has no room or is lost.
    pub fn enter(&mut self) -> Result<(), MemoryError> {
        let Some(visit) = self.ahead.pop_front() else {
            return Err(MemoryError::OutOfOrder("a visit that was not announced".to_owned()));
        };
        self.depart(visit.step);
        for id in &visit.models {
            self.bring_in(*id)?;
            if let Some(model) = self.models.get_mut(id.0) {
                model.steps.push(visit.step);
            }
        }
        let resident_bytes = self.allocated();
        self.report.peak_bytes = self.report.peak_bytes.max(resident_bytes + visit.work);
        self.report.visits.push(VisitReport { label: visit.label, resident_bytes, work_bytes: visit.work });
        Ok(())
    }

    /// A net of the current visit. It stays on the device while the lease lives.
    ///
    /// # Errors
    /// The current visit did not name it.
    pub fn lease<T: Send + Sync + 'static>(&mut self, handle: &Handle<T>) -> Result<Lease<T>, MemoryError> {
        let model = self.models.get(handle.id.0);
        let net = model.and_then(|model| model.net.clone()).and_then(Lease::new);
        net.ok_or_else(|| {
            let name = model.map_or("a model of another memory", |model| &model.spec.name);
            MemoryError::OutOfOrder(format!("{name} is leased outside of a visit that names it"))
        })
    }

    /// The steps up to `step` are done: what may stay no longer leaves now instead of at the next visit.
    pub fn step_done(&mut self, step: u8) {
        self.depart(step + 1);
    }

    /// Frees `models` that nobody leases.
    pub fn unload(&mut self, label: &str, models: &[ModelId]) {
        self.log(&format!("Before {label} unload"));
        for id in models {
            self.drop_net(*id);
        }
        self.log(&format!("After {label} unload"));
    }

    /// The request is over, well or not: what may stay no longer leaves; what happened is told.
    pub fn finish(&mut self) -> Report {
        self.ahead.clear();
        self.depart(u8::MAX);
        self.rules.clear();
        std::mem::take(&mut self.report)
    }

    /// Bytes of weights on the device.
    pub fn allocated(&self) -> u64 {
        self.models.iter().filter(|model| model.net.is_some()).map(|model| model.bytes).sum()
    }

    fn bring_in(&mut self, id: ModelId) -> Result<(), MemoryError> {
        let Some(model) = self.models.get_mut(id.0) else {
            return Err(MemoryError::OutOfOrder(format!("{id:?} was never registered")));
        };
        if model.net.is_some() {
            return Ok(());
        }
        let begun = Instant::now();
        let weights = Weights::new(Arc::clone(&model.spec.source), model.spec.dtype, &self.device);
        let net = (model.build)(&weights)
            .map_err(|source| MemoryError::Load { model: model.spec.name.clone(), source })?;
        model.net = Some(net);
        model.steps.clear();
        self.report.moves.push(MoveReport {
            model: model.spec.name.clone(),
            from: Place::Disk,
            to: Place::Device,
            bytes: model.bytes,
            seconds: begun.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// What the timetable wants gone before `step`.
    fn depart(&mut self, step: u8) {
        for rule in self.rules.clone() {
            if rule.unload != AutoUnload::Yes || rule.gone_before > step {
                continue;
            }
            let due: Vec<ModelId> = (0..self.models.len())
                .map(ModelId)
                .filter(|id| {
                    self.models
                        .get(id.0)
                        .is_some_and(|model| model.net.is_some() && model.steps.contains(&rule.step))
                })
                .collect();
            if !due.is_empty() {
                self.unload(&rule.label, &due);
            }
        }
    }

    fn drop_net(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(id.0) else { return };
        // A lease holds the net too.
        if model.net.as_ref().is_none_or(|net| Arc::strong_count(net) > 1) {
            return;
        }
        model.net = None;
        self.report.moves.push(MoveReport {
            model: model.spec.name.clone(),
            from: Place::Device,
            to: Place::Disk,
            bytes: model.bytes,
            seconds: 0.0,
        });
    }

    fn log(&self, label: &str) {
        log_gpu_memory(label, self.allocated(), self.allocated());
    }
}

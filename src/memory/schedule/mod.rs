//! The plan of a whole request: which weights come and go before and during each visit, and how much is on the device at
//! its peak. Pure: sizes, visits and terms in, moves out.
//!
//! A model is a list of pieces (the blocks of a transformer, or one piece for all) that come and go by themselves, so
//! that no more of a large model leaves than a small one needs. What leaves is what is used furthest in the future (Belady's
//! rule); what is needed next comes in while the visit before it computes, as far as there is room. Must not know nets,
//! devices or steps. Callers: [`super::Memory`], which carries it out, and `marquee plan`, which prints it.

mod fit;
mod host;
mod prefetch;
mod room;
mod state;

use super::timetable::StepRule;

pub use fit::{CannotFit, Need, RING_SLOTS};
use state::State;

/// A registered model, numbered in the order of registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub usize);

/// How much a model takes on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// In logs and errors.
    pub name: String,
    /// Bytes of what comes in and goes by itself, in the order of use. The first belongs to no block and may be 0.
    pub pieces: Vec<u64>,
    /// Bytes of a slot that any piece but the first fits into, if those may pass through a ring while the net runs; else 0.
    pub slot: u64,
    /// Bytes of its copy in host memory.
    pub host: u64,
}

impl Size {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().sum()
    }
}

/// A stretch of work with its models, all of them needed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// In logs and reports: `T5`, `denoise background`.
    pub label: String,
    /// Which models it needs.
    pub models: Vec<ModelId>,
    /// Bytes that computing takes beside the weights, at its peak.
    pub work: u64,
    /// Which step it belongs to; never falls from one visit to the next.
    pub step: u8,
}

/// What a request will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Itinerary {
    /// In order.
    pub visits: Vec<Visit>,
    /// How long each step's models may stay.
    pub rules: Vec<StepRule>,
}

/// Where a model is when the request begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which of its pieces are on the device.
    pub held: Vec<bool>,
    /// Bytes of its ring, if some of the others pass through one.
    pub ring: u64,
    /// Whether there is a copy in host memory.
    pub on_host: bool,
}

impl Standing {
    /// Only in its files.
    pub fn on_disk(size: &Size) -> Self {
        Self { held: vec![false; size.pieces.len()], ring: 0, on_host: false }
    }
}

/// What the schedule must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Bytes for weights and computing together; `None`: nothing is evicted, refused or fetched ahead.
    pub budget: Option<u64>,
    /// Bytes for host copies; `None`: as many as there are models.
    pub host_budget: Option<u64>,
    /// Share of the budget that visits of a step with "auto" may fill with models that they do not need themselves.
    pub threshold: f64,
    /// Whether weights may come in while the visit before computes.
    pub prefetch: bool,
}

/// Where weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Files to host memory.
    Read,
    /// Host memory to the device; from the files where there is no host copy, or not yet.
    Upload,
    /// Off the device.
    Free,
    /// Stays on the device for a later step of the request, although the timetable ends its stay before: what would come back
    /// at once need not leave.
    Keep,
    /// Off the host.
    Forget,
}

/// Some pieces of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub model: ModelId,
    /// What happens.
    pub action: Action,
    /// Which pieces, in ascending order; host copies are always whole.
    pub pieces: Vec<usize>,
    /// How much they take; a ring counts with the first piece.
    pub bytes: u64,
}

/// Models that the timetable wants gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Of the rule, for log lines.
    pub label: String,
    /// All of kind [`Action::Free`].
    pub moves: Vec<Move>,
}

/// A model of which some pieces stay away and pass through a ring instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streaming {
    /// Which.
    pub model: ModelId,
    /// Which pieces pass through.
    pub pieces: Vec<usize>,
    /// Their bytes: what crosses the bus each time that the net runs.
    pub bytes: u64,
    /// Bytes of one slot; there are [`RING_SLOTS`].
    pub slot: u64,
}

/// What happens for one visit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// What the timetable wants gone by now.
    pub due: Vec<Departure>,
    /// What makes room, then what comes in; the visit waits for it.
    pub before: Vec<Move>,
    /// The same for later visits, while this one computes.
    pub during: Vec<Move>,
    /// Models that do not fit even alone.
    pub streaming: Vec<Streaming>,
    /// Bytes of weights on the device when the visit starts to compute, rings included.
    pub resident: u64,
    /// Most bytes at once: weights, rings, what comes in meanwhile, and computing.
    pub peak: u64,
}

/// A request's moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// One a visit.
    pub stages: Vec<Stage>,
    /// What the timetable wants gone after the last visit.
    pub closing: Vec<Departure>,
    /// Most bytes on the device at once.
    pub peak: u64,
    /// Most bytes of host copies at once.
    pub host_peak: u64,
    /// Bytes on the device when all is done.
    pub left: u64,
}

/// Plans `itinerary` for models of `sizes` that are where `standing` says.
///
/// # Errors
/// [`CannotFit`] if a visit's models and work exceed the budget even with every layer that can be streamed streamed. A
/// visit that names an unknown model is a mistake of the caller's and is planned without it.
pub fn plan(
    sizes: &[Size],
    standing: &[Standing],
    itinerary: &Itinerary,
    terms: &Terms,
) -> Result<Schedule, Box<CannotFit>> {
    let forms = fit::forms(sizes, itinerary, terms.budget)?;
    let mut state = State::new(sizes, standing, itinerary, forms);
    let mut plan = Schedule { peak: state.bytes(), ..Schedule::default() };
    for visit in 0..itinerary.visits.len() {
        let due = state.depart(visit);
        let mut before = state.make_room(visit, terms);
        before.extend(state.load(visit));
        state.mark_used(visit);
        let resident = state.bytes();
        let during = if terms.prefetch { state.prefetch(visit, terms) } else { Vec::new() };
        let peak = highest(resident, &during) + state.work(visit);
        plan.peak = plan.peak.max(peak);
        let streaming = state.streaming(visit);
        plan.stages.push(Stage { due, before, during, streaming, resident, peak });
    }
    plan.closing = state.depart(itinerary.visits.len());
    plan.left = state.bytes();
    host::copies(&mut plan, sizes, standing, terms.host_budget);
    Ok(plan)
}

/// Most bytes while `moves` happen one after the other, from `bytes` on.
fn highest(bytes: u64, moves: &[Move]) -> u64 {
    let mut now = bytes;
    let after = moves.iter().map(|step| {
        match step.action {
            Action::Upload => now += step.bytes,
            Action::Free => now -= step.bytes,
            Action::Keep | Action::Read | Action::Forget => {}
        }
        now
    });
    after.fold(bytes, u64::max)
}

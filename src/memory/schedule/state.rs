//! What is on the device at a point of the schedule, and what each model is worth.

use super::fit::Form;
use super::{Action, Departure, Itinerary, ModelId, Move, Size, Standing, Streaming, Terms};
use crate::input::plan::AutoUnload;
use crate::memory::timetable::StepRule;

/// The device while a schedule is made.
pub(super) struct State<'a> {
    pub(super) sizes: &'a [Size],
    pub(super) itinerary: &'a Itinerary,
    pub(super) models: Vec<Tracked>,
}

/// One model of [`State`].
pub(super) struct Tracked {
    pub(super) form: Form,
    /// Bytes of the ring: the form's, or what an earlier request left of a model that this one does not use.
    ring: u64,
    /// Pieces on the device.
    pub(super) held: Vec<bool>,
    /// Visits that need it.
    uses: Vec<usize>,
    /// Last visit that used it since it came; `None` for what came early or was there before.
    used: Option<usize>,
    /// Steps that used it since it came.
    steps: Vec<u8>,
}

impl Tracked {
    /// Pieces on the device that are to be streamed: an earlier request had more room.
    pub(super) fn odd(&self) -> Vec<usize> {
        if self.uses.is_empty() {
            return Vec::new();
        }
        let pieces = self.held.iter().zip(&self.form.resident).enumerate();
        pieces.filter(|(_, (held, wanted))| **held && !**wanted).map(|(piece, _)| piece).collect()
    }
}

impl<'a> State<'a> {
    pub(super) fn new(
        sizes: &'a [Size],
        standing: &[Standing],
        itinerary: &'a Itinerary,
        forms: Vec<Form>,
    ) -> Self {
        let models = forms
            .into_iter()
            .enumerate()
            .map(|(index, form)| {
                let standing = standing.get(index);
                let mut held = standing.map(|standing| standing.held.clone()).unwrap_or_default();
                held.resize(form.resident.len(), false);
                let uses: Vec<usize> =
                    (0..itinerary.visits.len()).filter(|at| needs(itinerary, *at, index)).collect();
                let before = standing.map_or(0, |standing| standing.ring);
                let ring = if uses.is_empty() { before } else { form.ring() };
                Tracked { form, ring, held, uses, used: None, steps: Vec::new() }
            })
            .collect();
        Self { sizes, itinerary, models }
    }

    /// Weights on the device.
    pub(super) fn bytes(&self) -> u64 {
        (0..self.models.len()).map(|model| self.held_bytes(model)).sum()
    }

    pub(super) fn held_bytes(&self, model: usize) -> u64 {
        self.sum(model, |tracked, piece| tracked.held.get(piece).copied().unwrap_or(false))
    }

    /// What a visit of `model` needs resident.
    pub(super) fn form_bytes(&self, model: usize) -> u64 {
        self.sum(model, |tracked, piece| tracked.form.resident.get(piece).copied().unwrap_or(false))
    }

    fn sum(&self, model: usize, which: impl Fn(&Tracked, usize) -> bool) -> u64 {
        let (Some(tracked), Some(size)) = (self.models.get(model), self.sizes.get(model)) else { return 0 };
        (0..size.pieces.len())
            .filter(|piece| which(tracked, *piece))
            .map(|piece| self.piece(model, piece))
            .sum()
    }

    pub(super) fn needs(&self, visit: usize, model: usize) -> bool {
        needs(self.itinerary, visit, model)
    }

    /// Known models of a visit, in its order.
    pub(super) fn wanted(&self, visit: usize) -> Vec<usize> {
        let models =
            self.itinerary.visits.get(visit).map(|visit| visit.models.as_slice()).unwrap_or_default();
        let mut wanted: Vec<usize> = Vec::with_capacity(models.len());
        for id in models.iter().filter(|id| id.0 < self.models.len()) {
            if !wanted.contains(&id.0) {
                wanted.push(id.0);
            }
        }
        wanted
    }

    pub(super) fn work(&self, visit: usize) -> u64 {
        self.itinerary.visits.get(visit).map_or(0, |visit| visit.work)
    }

    pub(super) fn streaming(&self, visit: usize) -> Vec<Streaming> {
        self.wanted(visit)
            .into_iter()
            .filter_map(|model| {
                self.models.get(model)?.form.streaming(ModelId(model), self.sizes.get(model)?)
            })
            .collect()
    }

    /// Pieces that a visit of `model` needs and that are not there.
    pub(super) fn missing(&self, model: usize) -> Vec<usize> {
        let Some(tracked) = self.models.get(model) else { return Vec::new() };
        let pairs = tracked.form.resident.iter().zip(&tracked.held).enumerate();
        pairs.filter(|(_, (wanted, held))| **wanted && !**held).map(|(piece, _)| piece).collect()
    }

    /// Pieces on the device, in order.
    pub(super) fn held(&self, model: usize) -> Vec<usize> {
        let Some(tracked) = self.models.get(model) else { return Vec::new() };
        tracked.held.iter().enumerate().filter(|(_, held)| **held).map(|(piece, _)| piece).collect()
    }

    /// Bytes on the device. A ring comes and goes with the first piece.
    pub(super) fn piece(&self, model: usize, piece: usize) -> u64 {
        let bytes = self.sizes.get(model).and_then(|size| size.pieces.get(piece)).copied().unwrap_or(0);
        let ring = if piece == 0 { self.models.get(model).map_or(0, |tracked| tracked.ring) } else { 0 };
        bytes + ring
    }

    /// Puts pieces on the device or takes them off.
    pub(super) fn turn(&mut self, model: usize, mut pieces: Vec<usize>, action: Action) -> Option<Move> {
        pieces.sort_unstable();
        pieces.dedup();
        let bytes = pieces.iter().map(|piece| self.piece(model, *piece)).sum();
        let tracked = self.models.get_mut(model)?;
        for piece in &pieces {
            if let Some(held) = tracked.held.get_mut(*piece) {
                *held = action == Action::Upload;
            }
        }
        if !tracked.held.contains(&true) {
            tracked.steps.clear();
            tracked.used = None;
        }
        (!pieces.is_empty()).then_some(Move { model: ModelId(model), action, pieces, bytes })
    }

    /// What is there of a model stays on, as if it had just come.
    pub(super) fn keep(&mut self, model: usize) -> Option<Move> {
        let pieces = self.held(model);
        let bytes = self.held_bytes(model);
        let tracked = self.models.get_mut(model)?;
        tracked.steps.clear();
        tracked.used = None;
        (!pieces.is_empty()).then_some(Move { model: ModelId(model), action: Action::Keep, pieces, bytes })
    }

    /// The rest of what a visit needs comes in.
    pub(super) fn load(&mut self, visit: usize) -> Vec<Move> {
        self.wanted(visit)
            .into_iter()
            .filter_map(|model| self.turn(model, self.missing(model), Action::Upload))
            .collect()
    }

    /// Bytes that may be used during a visit: those of a step that is "auto" leave a reserve, as far as what they do
    /// not need themselves can leave.
    pub(super) fn limit(&self, visit: usize, terms: &Terms) -> u64 {
        let budget = terms.budget.unwrap_or(u64::MAX);
        let step = self.itinerary.visits.get(visit).map(|visit| visit.step);
        let auto = |rule: &StepRule| Some(rule.step) == step && rule.unload == AutoUnload::Auto;
        if self.itinerary.rules.iter().any(auto) { (budget as f64 * terms.threshold) as u64 } else { budget }
    }

    pub(super) fn mark_used(&mut self, visit: usize) {
        let Some(step) = self.itinerary.visits.get(visit).map(|visit| visit.step) else { return };
        for model in self.wanted(visit) {
            if let Some(tracked) = self.models.get_mut(model) {
                tracked.used = Some(visit);
                if !tracked.steps.contains(&step) {
                    tracked.steps.push(step);
                }
            }
        }
    }

    /// The timetable's rule that ends the model's stay first, and the boundary at which it does: before the visit of that
    /// number, or after the last.
    pub(super) fn leaves(&self, model: usize) -> Option<(usize, Option<&'a StepRule>)> {
        let tracked = self.models.get(model)?;
        let end = self.itinerary.visits.len();
        let rules = &self.itinerary.rules;
        if tracked.uses.is_empty() {
            // Left by an earlier request that kept it; this one keeps nothing.
            let nothing_stays = !rules.is_empty() && rules.iter().all(|rule| rule.unload == AutoUnload::Yes);
            return nothing_stays.then_some((end, None));
        }
        let after = tracked.used? + 1;
        rules
            .iter()
            .filter(|rule| rule.unload == AutoUnload::Yes && tracked.steps.contains(&rule.step))
            .map(|rule| {
                let gone = |at: &usize| {
                    self.itinerary.visits.get(*at).is_some_and(|visit| visit.step >= rule.gone_before)
                };
                ((after..end).find(gone).unwrap_or(end), Some(rule))
            })
            .min_by_key(|(boundary, _)| *boundary)
    }

    /// How far in the future a stay that goes on from visit `from` pays off; the furthest leaves first.
    pub(super) fn distance(&self, model: usize, from: usize) -> usize {
        let Some(tracked) = self.models.get(model) else { return LEAVING };
        let next = tracked.uses.iter().copied().find(|at| *at >= from);
        let leaves = self.leaves(model).map(|(boundary, _)| boundary);
        match (next, leaves) {
            (Some(next), None) => next,
            (Some(next), Some(leaves)) if leaves > next => next,
            (_, Some(_)) => LEAVING,
            // The next request is likely to make the same visits.
            (None, None) => tracked.uses.first().map_or(IDLE, |first| self.itinerary.visits.len() + first),
        }
    }

    /// What the timetable wants gone at `boundary`.
    pub(super) fn depart(&mut self, boundary: usize) -> Vec<Departure> {
        let mut departures: Vec<Departure> = Vec::new();
        for model in 0..self.models.len() {
            let Some((at, rule)) = self.leaves(model) else { continue };
            if at > boundary {
                continue;
            }
            let label = rule.map_or("idle models", |rule| rule.label.as_str());
            let Some(freed) = self.turn(model, self.held(model), Action::Free) else { continue };
            match departures.iter_mut().find(|departure| departure.label == label) {
                Some(departure) => departure.moves.push(freed),
                None => departures.push(Departure { label: label.to_owned(), moves: vec![freed] }),
            }
        }
        departures
    }
}

/// [`State::distance`] of a model that no visit of this request needs.
pub(super) const IDLE: usize = usize::MAX - 1;
/// [`State::distance`] of a model that the timetable takes before anybody needs it again.
pub(super) const LEAVING: usize = usize::MAX;

fn needs(itinerary: &Itinerary, visit: usize, model: usize) -> bool {
    itinerary.visits.get(visit).is_some_and(|visit| visit.models.contains(&ModelId(model)))
}

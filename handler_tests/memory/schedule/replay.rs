//! Carries a schedule out with a pencil: what is where after each move, independent of how the schedule was made.

use marquee::input::plan::AutoUnload;
use marquee::memory::schedule::{Action, Itinerary, ModelId, Move, RING_SLOTS, Schedule, Size, Standing};

/// What is on the device and on the host.
pub(super) struct Replay<'a> {
    pub(super) sizes: &'a [Size],
    pub(super) itinerary: &'a Itinerary,
    pub(super) held: Vec<Vec<bool>>,
    pub(super) copies: Vec<bool>,
    /// Bytes of each model's ring.
    pub(super) rings: Vec<u64>,
    pub(super) host_budget: Option<u64>,
    /// Steps that used each model since it came, and the last visit that did.
    pub(super) steps: Vec<Vec<u8>>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(sizes: &'a [Size], standing: &[Standing], itinerary: &'a Itinerary) -> Self {
        Self {
            sizes,
            itinerary,
            held: standing.iter().map(|standing| standing.held.clone()).collect(),
            copies: standing.iter().map(|standing| standing.on_host).collect(),
            rings: standing.iter().map(|standing| standing.ring).collect(),
            host_budget: None,
            steps: vec![Vec::new(); sizes.len()],
        }
    }

    pub(super) fn bytes_of(&self, model: usize) -> u64 {
        (0..self.held[model].len())
            .filter(|piece| self.held[model][*piece])
            .map(|piece| self.piece(model, piece))
            .sum()
    }

    pub(super) fn piece(&self, model: usize, piece: usize) -> u64 {
        self.sizes[model].pieces[piece] + if piece == 0 { self.rings[model] } else { 0 }
    }

    /// The first piece that is not there.
    pub(super) fn first_gap(&self, model: usize) -> usize {
        self.held[model].iter().position(|held| !held).unwrap_or(usize::MAX)
    }

    /// From here on the models of `plan` are in its forms.
    pub(super) fn take_form(&mut self, plan: &Schedule) {
        for model in 0..self.sizes.len() {
            if (0..self.itinerary.visits.len()).any(|visit| self.needs(visit, model)) {
                let streaming =
                    plan.stages.iter().flat_map(|stage| &stage.streaming).find(|s| s.model.0 == model);
                self.rings[model] = streaming.map_or(0, |streaming| RING_SLOTS * streaming.slot);
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        (0..self.sizes.len()).map(|model| self.bytes_of(model)).sum()
    }

    pub(super) fn host_bytes(&self) -> u64 {
        self.sizes.iter().zip(&self.copies).filter(|(_, copy)| **copy).map(|(size, _)| size.host).sum()
    }

    /// Every move must change something, and say how much.
    pub(super) fn apply(&mut self, step: &Move) {
        let model = step.model.0;
        assert!(!step.pieces.is_empty(), "an empty move: {step:?}");
        assert!(step.pieces.is_sorted(), "{step:?}");
        let bytes: u64 = match step.action {
            Action::Upload | Action::Free | Action::Keep => {
                step.pieces.iter().map(|piece| self.piece(model, *piece)).sum()
            }
            Action::Read | Action::Forget => self.sizes[model].host,
        };
        assert_eq!(step.bytes, bytes, "{step:?}");
        match step.action {
            Action::Upload | Action::Free => {
                let present = step.action == Action::Free;
                if !present {
                    let may_keep = self.host_budget.is_none_or(|budget| self.sizes[model].host <= budget);
                    assert!(self.copies[model] || !may_keep, "uploaded without a host copy: {step:?}");
                }
                for piece in &step.pieces {
                    let held = &mut self.held[model][*piece];
                    assert_eq!(*held, present, "piece {piece} of {step:?}");
                    *held = !present;
                }
                if !self.held[model].contains(&true) {
                    self.steps[model].clear();
                }
            }
            Action::Keep => {
                let held: Vec<usize> =
                    (0..self.held[model].len()).filter(|at| self.held[model][*at]).collect();
                assert_eq!(step.pieces, held, "{step:?}");
                self.steps[model].clear();
            }
            Action::Read | Action::Forget => {
                assert_eq!(self.copies[model], step.action == Action::Forget, "{step:?}");
                self.copies[model] = step.action == Action::Read;
            }
        }
    }

    pub(super) fn enter(&mut self, visit: usize) {
        let at = &self.itinerary.visits[visit];
        for id in &at.models {
            if !self.steps[id.0].contains(&at.step) {
                self.steps[id.0].push(at.step);
            }
        }
    }

    pub(super) fn needs(&self, visit: usize, model: usize) -> bool {
        self.itinerary.visits[visit].models.contains(&ModelId(model))
    }

    /// Whether the timetable has the model off the device by `boundary` (before that visit, or at the end).
    pub(super) fn due(&self, model: usize, boundary: usize) -> bool {
        let step = self.itinerary.visits.get(boundary).map(|visit| visit.step);
        self.itinerary.rules.iter().any(|rule| {
            rule.unload == AutoUnload::Yes
                && self.steps[model].contains(&rule.step)
                && step.is_none_or(|step| step >= rule.gone_before)
        })
    }

    /// The next visit from `from` on that this stay of the model serves.
    pub(super) fn next_use(&self, model: usize, from: usize) -> Option<usize> {
        (from..self.itinerary.visits.len())
            .take_while(|visit| !self.due(model, *visit))
            .find(|visit| self.needs(*visit, model))
    }
}

//! Who leaves so that a visit's models can come in.

use super::state::{LEAVING, State, Tracked};
use super::{Action, Move, Terms};

/// A piece that could leave.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) model: usize,
    pub(super) piece: usize,
    bytes: u64,
    distance: usize,
}

impl State<'_> {
    /// Frees what has to leave before `visit`.
    pub(super) fn make_room(&mut self, visit: usize, terms: &Terms) -> Vec<Move> {
        let mut moves = Vec::new();
        for model in 0..self.models.len() {
            let odd = self.models.get(model).map(Tracked::odd).unwrap_or_default();
            moves.extend(self.turn(model, odd, Action::Free));
        }
        let victims = self.victims(visit, terms);
        moves.extend(self.free(&victims));
        moves
    }

    /// Frees pieces, one move a model, in the order in which models are first named.
    pub(super) fn free(&mut self, victims: &[Victim]) -> Vec<Move> {
        let mut order: Vec<usize> = Vec::new();
        for victim in victims {
            if !order.contains(&victim.model) {
                order.push(victim.model);
            }
        }
        order
            .into_iter()
            .filter_map(|model| {
                let pieces = victims.iter().filter(|victim| victim.model == model).map(|v| v.piece).collect();
                self.turn(model, pieces, Action::Free)
            })
            .collect()
    }

    /// The pieces that have to leave before `visit`, the first to go first: those of the model that is used furthest in
    /// the future, from its end. Models that may stay "auto" make room down to the threshold, others to the budget.
    pub(super) fn victims(&self, visit: usize, terms: &Terms) -> Vec<Victim> {
        if terms.budget.is_none() {
            return Vec::new();
        }
        let limit = self.limit(visit, terms);
        let missing: u64 = self
            .wanted(visit)
            .into_iter()
            .map(|model| self.missing(model).iter().map(|piece| self.piece(model, *piece)).sum::<u64>())
            .sum();
        let mut total = self.bytes() + missing + self.work(visit);
        let mut chosen: Vec<Victim> = Vec::new();
        for victim in self.candidates(visit) {
            if total <= limit {
                break;
            }
            total -= victim.bytes;
            chosen.push(victim);
        }
        self.spare(&mut chosen, total, limit);
        chosen
    }

    /// All pieces that `visit` does not need, the first to go first.
    fn candidates(&self, visit: usize) -> Vec<Victim> {
        let mut models: Vec<usize> =
            (0..self.models.len()).filter(|model| !self.needs(visit, *model)).collect();
        // Of two that are equally far away the smaller goes first, and comes back in `spare` if it was not enough.
        models.sort_by_key(|model| {
            (std::cmp::Reverse(self.distance(*model, visit)), self.held_bytes(*model), *model)
        });
        let mut all = Vec::new();
        for model in models {
            let distance = self.distance(model, visit);
            let pieces = self.held(model).into_iter().rev();
            all.extend(pieces.map(|piece| Victim {
                model,
                piece,
                bytes: self.piece(model, piece),
                distance,
            }));
        }
        all
    }

    /// Pieces of models that the timetable takes before anybody needs them again, and that `visit` does not need.
    pub(super) fn leaving(&self, visit: usize) -> Vec<Victim> {
        self.candidates(visit).into_iter().filter(|victim| victim.distance == LEAVING).collect()
    }

    /// Takes back what need not leave now that something larger does, the soonest used first. What has a use in this request
    /// never leaves for what has none.
    fn spare(&self, chosen: &mut Vec<Victim>, mut total: u64, limit: u64) {
        let end = self.itinerary.visits.len();
        let mut order: Vec<Victim> = chosen.iter().rev().copied().collect();
        order.sort_by_key(|victim| victim.distance);
        let mut gone: Vec<usize> = Vec::new();
        for victim in order {
            // A model's pieces come back from its beginning on.
            if gone.contains(&victim.model) {
                continue;
            }
            let used_ones_left = chosen.iter().any(|other| other.distance < end);
            let spared = victim.distance < end || !used_ones_left;
            if victim.distance != LEAVING && spared && total + victim.bytes <= limit {
                total += victim.bytes;
                chosen.retain(|other| (other.model, other.piece) != (victim.model, victim.piece));
            } else {
                gone.push(victim.model);
            }
        }
    }
}

//! What comes in for later visits while one computes.

use super::room::Victim;
use super::state::{LEAVING, State};
use super::{Action, Move, Terms};

impl State<'_> {
    /// Weights of the visits after `visit`, the next first, as far as there is room now and they would not be evicted
    /// again before they are used. Makes room with what leaves before it is used again, and, for the next visit, with what
    /// would have to leave for it anyway.
    pub(super) fn prefetch(&mut self, visit: usize, terms: &Terms) -> Vec<Move> {
        let mut moves = Vec::new();
        if terms.budget.is_none() {
            return moves;
        }
        for later in visit + 1..self.itinerary.visits.len() {
            for model in self.wanted(later) {
                if !self.fetch(model, (visit, later), terms, &mut moves) {
                    // What is needed sooner has not all found room: nothing later may take it.
                    return moves;
                }
            }
        }
        moves
    }

    /// Brings in as much of `model` as there is room for; whether that was all.
    fn fetch(
        &mut self,
        model: usize,
        (visit, later): (usize, usize),
        terms: &Terms,
        moves: &mut Vec<Move>,
    ) -> bool {
        let ends_before = self.leaves(model).is_some_and(|(boundary, _)| boundary <= later);
        if ends_before {
            return self.renew(model, (visit, later), terms, moves);
        }
        let missing = self.missing(model);
        if missing.is_empty() {
            return true;
        }
        let held = self.held_bytes(model);
        let limit = self.lasting_room(model, held, (visit, later), terms);
        let mut wanted = Vec::new();
        let mut bytes = 0;
        for piece in &missing {
            let next = bytes + self.piece(model, *piece);
            if next > limit {
                break;
            }
            bytes = next;
            wanted.push(*piece);
        }
        // Room right now: free, or freed by what leaves anyway.
        let mut room = self.limit(visit, terms).saturating_sub(self.bytes() + self.work(visit));
        let mut victims = Vec::new();
        if bytes > room {
            for victim in self.early_victims(visit, later, terms) {
                if bytes <= room || victim.model == model {
                    break;
                }
                room += self.piece(victim.model, victim.piece);
                victims.push(victim);
            }
        }
        while bytes > room {
            let Some(piece) = wanted.pop() else { break };
            bytes -= self.piece(model, piece);
        }
        if wanted.is_empty() {
            return false;
        }
        let all = wanted.len() == missing.len();
        // With fewer pieces than hoped for, some victims may stay.
        while let Some(last) = victims.last() {
            let freed = self.piece(last.model, last.piece);
            if room - freed < bytes {
                break;
            }
            room -= freed;
            victims.pop();
        }
        moves.extend(self.free(&victims));
        moves.extend(self.turn(model, wanted, Action::Upload));
        all
    }

    /// The timetable ends the model's stay before `later` needs it. The stay ends now and the next begins while the device
    /// computes, as far as there is room, instead of later while it waits: what is there stays, the rest comes in. Whether all
    /// of it is there then.
    fn renew(
        &mut self,
        model: usize,
        (visit, later): (usize, usize),
        terms: &Terms,
        moves: &mut Vec<Move>,
    ) -> bool {
        if (visit..later).any(|at| self.needs(at, model)) {
            return false;
        }
        let held = self.held_bytes(model);
        let room =
            self.limit(visit, terms).saturating_add(held).saturating_sub(self.bytes() + self.work(visit));
        let room = room.min(self.lasting_room(model, 0, (visit, later), terms));
        let Some(tracked) = self.models.get(model) else { return false };
        let form = tracked.form.resident.iter().enumerate();
        let form: Vec<usize> = form.filter(|(_, wanted)| **wanted).map(|(piece, _)| piece).collect();
        let mut bytes = 0;
        let fits = |piece: &&usize| {
            bytes += self.piece(model, **piece);
            bytes <= room
        };
        let wanted: Vec<usize> = form.iter().take_while(fits).copied().collect();
        if wanted.is_empty() {
            return false;
        }
        let all = wanted.len() == form.len();
        let held = self.held(model);
        let odd = held.iter().copied().filter(|piece| !wanted.contains(piece)).collect();
        let missing = wanted.into_iter().filter(|piece| !held.contains(piece)).collect();
        moves.extend(self.turn(model, odd, Action::Free));
        moves.extend(self.keep(model));
        moves.extend(self.turn(model, missing, Action::Upload));
        all
    }

    /// Bytes that can be added to `held` bytes of `model` during `visit` and stay until `later`, with all that is needed
    /// before it.
    fn lasting_room(&self, model: usize, held: u64, (visit, later): (usize, usize), terms: &Terms) -> u64 {
        let mut room = u64::MAX;
        for at in visit + 1..later {
            let claimed: u64 = (0..self.models.len())
                .map(|other| {
                    if self.needs(at, other) {
                        self.form_bytes(other).max(self.held_bytes(other))
                    } else if other == model {
                        held
                    } else if self.distance(other, at) <= later {
                        self.held_bytes(other)
                    } else {
                        0
                    }
                })
                .sum();
            room = room.min(self.limit(at, terms).saturating_sub(claimed + self.work(at)));
        }
        room
    }

    /// What may leave while `visit` computes: models whose stay ends before they are used again, then, for the next visit,
    /// what it will have to evict.
    fn early_victims(&self, visit: usize, later: usize, terms: &Terms) -> Vec<Victim> {
        let mut victims: Vec<Victim> = self.leaving(visit);
        if later == visit + 1 {
            victims.extend(
                self.victims(later, terms)
                    .into_iter()
                    .filter(|victim| !self.needs(visit, victim.model))
                    .filter(|victim| self.distance(victim.model, visit) != LEAVING),
            );
        }
        victims
    }
}

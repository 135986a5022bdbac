//! Which host copies are read from the files when, and which are given up for others.

use super::{Action, ModelId, Move, Schedule, Size, Standing};

/// Puts [`Action::Read`] before each upload of a model without a host copy, and [`Action::Forget`] where copies exceed the
/// budget: first those that are uploaded furthest in the future. A model that is larger than the budget by itself gets no
/// copy and comes from its files, unless it is streamed, which needs one.
pub(super) fn copies(plan: &mut Schedule, sizes: &[Size], standing: &[Standing], budget: Option<u64>) {
    let mut shelf = Shelf {
        sizes,
        copies: standing.iter().map(|standing| standing.on_host).collect(),
        budget: budget.unwrap_or(u64::MAX),
        uploads: uploads(plan),
    };
    shelf.copies.resize(sizes.len(), false);
    let mut at = 0;
    let mut peak = shelf.bytes();
    for stage in &mut plan.stages {
        let streamed: Vec<ModelId> = stage.streaming.iter().map(|streaming| streaming.model).collect();
        // What streams needs its copy even if nothing of it is uploaded now.
        let mut reads = Vec::new();
        for model in &streamed {
            let read = shelf.read(*model, &streamed, at + 1, &mut reads);
            peak = peak.max(shelf.bytes());
            reads.extend(read);
        }
        stage.before.splice(0..0, reads);
        for list in [&mut stage.before, &mut stage.during] {
            let mut with_host = Vec::with_capacity(list.len());
            for step in list.drain(..) {
                if step.action == Action::Upload {
                    at += 1;
                }
                if step.action == Action::Upload && shelf.may_keep(step.model) {
                    let read = shelf.read(step.model, &streamed, at, &mut with_host);
                    peak = peak.max(shelf.bytes());
                    with_host.extend(read);
                }
                with_host.push(step);
            }
            *list = with_host;
        }
        shelf.shrink(0, &streamed, at + 1, &mut stage.during);
    }
    plan.host_peak = peak;
}

struct Shelf<'a> {
    sizes: &'a [Size],
    copies: Vec<bool>,
    budget: u64,
    /// Model of each upload, in order, numbered from 1.
    uploads: Vec<usize>,
}

impl Shelf<'_> {
    fn may_keep(&self, model: ModelId) -> bool {
        self.sizes.get(model.0).is_some_and(|size| size.host <= self.budget)
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().zip(&self.copies).filter(|(_, here)| **here).map(|(size, _)| size.host).sum()
    }

    fn read(&mut self, model: ModelId, kept: &[ModelId], at: usize, moves: &mut Vec<Move>) -> Option<Move> {
        if self.copies.get(model.0).copied()? {
            return None;
        }
        let size = self.sizes.get(model.0)?;
        self.shrink(size.host, kept, at, moves);
        if let Some(copy) = self.copies.get_mut(model.0) {
            *copy = true;
        }
        Some(whole(model, size, Action::Read))
    }

    /// Makes room for `more` bytes, as far as copies other than `kept` allow.
    fn shrink(&mut self, more: u64, kept: &[ModelId], at: usize, moves: &mut Vec<Move>) {
        while self.bytes().saturating_add(more) > self.budget {
            let furthest = (0..self.copies.len())
                .filter(|model| self.copies.get(*model) == Some(&true) && !kept.contains(&ModelId(*model)))
                .max_by_key(|model| self.next(*model, at));
            let Some((model, size)) = furthest.and_then(|model| Some((model, self.sizes.get(model)?))) else {
                return;
            };
            if let Some(copy) = self.copies.get_mut(model) {
                *copy = false;
            }
            moves.push(whole(ModelId(model), size, Action::Forget));
        }
    }

    /// Number of the model's next upload from `at` on; the next request's, if this one has none.
    fn next(&self, model: usize, at: usize) -> usize {
        let number = |index: usize| index + 1;
        let of = |wanted: usize| move |upload: &usize| *upload == wanted;
        let soon = self.uploads.iter().skip(at.saturating_sub(1)).position(of(model));
        match (soon, self.uploads.iter().position(of(model))) {
            (Some(offset), _) => number(at.saturating_sub(1) + offset),
            (None, Some(first)) => number(self.uploads.len() + first),
            (None, None) => usize::MAX,
        }
    }
}

fn whole(model: ModelId, size: &Size, action: Action) -> Move {
    Move { model, action, pieces: (0..size.pieces.len()).collect(), bytes: size.host }
}

fn uploads(plan: &Schedule) -> Vec<usize> {
    plan.stages
        .iter()
        .flat_map(|stage| stage.before.iter().chain(&stage.during))
        .filter(|step| step.action == Action::Upload)
        .map(|step| step.model.0)
        .collect()
}

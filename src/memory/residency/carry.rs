//! The moves themselves.

use std::sync::Arc;
use std::time::Instant;

use super::super::log::log_gpu_memory;
use super::super::model::Model;
use super::super::pace::Pace;
use super::super::reader::{Done, Read};
use super::super::report::{MoveReport, Place};
use super::super::schedule::{Action, Departure, ModelId, Move, Stage};
use super::super::{Full, MemoryError};
use super::{Carriage, Memory};

impl Memory {
    /// What makes room leaves, then what the visit needs comes in. Does not wait for the copies: the computing does, on the
    /// device, block by block.
    pub(super) fn bring_in(&mut self, stage: &Stage, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        let streams = |id: ModelId| stage.streaming.iter().any(|streaming| streaming.model == id);
        for step in &stage.before {
            match step.action {
                Action::Free => self.evict(step)?,
                Action::Keep => self.keep(step),
                Action::Upload => {
                    self.settle_for(step.bytes)?;
                    if streams(step.model) {
                        self.read_for(step.model, go_on)?;
                    }
                    self.upload(step, go_on)?;
                }
                Action::Read | Action::Forget => self.on_host(step),
            }
        }
        // Also those of which nothing had to come.
        stage.streaming.iter().try_for_each(|streaming| self.read_for(streaming.model, go_on))
    }

    /// What later visits need begins to come in; what is not in host memory yet waits for the next visit.
    pub(super) fn set_out(&mut self, moves: Vec<Move>) -> Result<(), MemoryError> {
        for step in &moves {
            match step.action {
                Action::Free => self.evict(step)?,
                Action::Keep => self.keep(step),
                Action::Upload | Action::Read | Action::Forget => {}
            }
        }
        let coming = moves.iter().filter(|step| step.action == Action::Upload).map(|step| step.bytes).sum();
        self.settle_for(coming)?;
        let begins = |step: &Move| !matches!(step.action, Action::Free | Action::Keep);
        self.request.pending = moves.into_iter().filter(begins).collect();
        while let Some(step) = self.request.pending.front() {
            let ready = self.models.get(step.model.0).is_some_and(|model| model.shelf.is_on_host());
            if step.action == Action::Upload && !ready {
                break;
            }
            let Some(step) = self.request.pending.pop_front() else { break };
            match step.action {
                Action::Upload => match self.upload(&step, &|| true) {
                    Ok(()) => {}
                    // Somebody else took the room: the visit that needs it will see to it.
                    Err(MemoryError::OutOfMemory(_)) => {
                        self.request.pending.push_front(step);
                        break;
                    }
                    Err(error) => return Err(error),
                },
                _ => self.on_host(&step),
            }
        }
        Ok(())
    }

    /// What the last visit could not begin.
    pub(super) fn finish_pending(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        while let Some(step) = self.request.pending.pop_front() {
            if step.action == Action::Upload {
                self.upload(&step, go_on)?;
            } else {
                self.on_host(&step);
            }
        }
        Ok(())
    }

    /// What the timetable wants gone.
    pub(super) fn depart(&mut self, due: Vec<Departure>) -> Result<(), MemoryError> {
        for departure in due {
            let models: Vec<ModelId> = departure.moves.iter().map(|step| step.model).collect();
            self.unload(&departure.label, &models)?;
        }
        Ok(())
    }

    fn evict(&mut self, step: &Move) -> Result<(), MemoryError> {
        let name = self.models.get(step.model.0).map(|model| model.name().to_owned()).unwrap_or_default();
        self.log(&format!("Before {name} unload"));
        self.free(step.model, &step.pieces)?;
        self.log(&format!("After {name} unload"));
        Ok(())
    }

    /// The steps that used it so far have no more say in how long it stays.
    fn keep(&mut self, step: &Move) {
        if let Some(model) = self.models.get_mut(step.model.0) {
            model.steps.clear();
            let label = format!("{} stays for a later step", model.name());
            self.log(&label);
        }
    }

    /// Frees pieces of a model, unless somebody leases it.
    pub(super) fn free(&mut self, id: ModelId, pieces: &[usize]) -> Result<(), MemoryError> {
        let Some(model) = self.models.get_mut(id.0) else { return Ok(()) };
        let (name, before) = (model.name().to_owned(), model.bytes());
        if before == 0 {
            return Ok(());
        }
        if model.is_leased() {
            tracing::warn!("{name} is to leave the device and is in use: it stays");
            return Ok(());
        }
        model.free(pieces).map_err(|source| MemoryError::of(&name, source))?;
        let bytes = before - model.bytes();
        self.unsettled += bytes;
        let to = if model.shelf.is_on_host() { Place::Host } else { Place::Disk };
        self.note(&name, (Place::Device, to), bytes, None);
        Ok(())
    }

    /// Takes memory and begins to copy, out of the host copy or, if there is none yet, out of the files, for which host copies
    /// that are being made have to wait.
    fn upload(&mut self, step: &Move, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        let Some(model) = self.models.get(step.model.0) else {
            return Err(MemoryError::OutOfOrder(format!("{:?} was never registered", step.model)));
        };
        let name = model.name().to_owned();
        let from = if model.shelf.is_on_host() { Place::Host } else { Place::Disk };
        let held = (from == Place::Disk).then(|| self.reader.hold());
        self.log(&format!("Before {name} load"));
        let begun = Instant::now();
        let lost = |source| MemoryError::of(&name, source);
        let before = self.transfer.time_copies().map_err(lost)?;
        let Some(model) = self.models.get_mut(step.model.0) else { return Ok(()) };
        model.bring(&step.pieces, go_on).map_err(|source| match MemoryError::of(&name, source) {
            MemoryError::OutOfMemory(full) => {
                let doing = format!("{name} comes in");
                MemoryError::OutOfMemory(Box::new(self.full(&doing, step.bytes, &full.reason)))
            }
            // The files' reading was given up. A device that is lost meanwhile is more than that.
            MemoryError::Load { .. } if held.is_some() && !go_on() => MemoryError::Stopped,
            other => other,
        })?;
        if held.is_some() {
            self.reader.defer(step.model);
        }
        let after = self.transfer.time_copies().map_err(lost)?;
        self.request.carriages.push(Carriage { at: self.report.moves.len(), begun: before, ended: after });
        // Where copies are not done behind the program's back, this is the time; elsewhere it is put right at the end.
        let seconds = self.device.is_cpu().then_some(begun);
        self.note(&name, (from, Place::Device), step.bytes, seconds);
        self.log(&format!("After {name} load"));
        Ok(())
    }

    /// What can be said of a device that ran full.
    pub(super) fn full(&self, doing: &str, needed: u64, reason: &str) -> Full {
        Full {
            doing: doing.to_owned(),
            needed,
            allocated: self.allocated(),
            free: self.driver.usage().ok().flatten().map(|usage| usage.free),
            budget: self.request.budget,
            reason: reason.to_owned(),
        }
    }

    /// Sees to the host copy of a model that streams from it.
    fn read_for(&mut self, id: ModelId, go_on: &dyn Fn() -> bool) -> Result<(), MemoryError> {
        let Some(shelf) = self.models.get(id.0).map(|model| Arc::clone(&model.shelf)) else { return Ok(()) };
        if shelf.is_on_host() {
            return Ok(());
        }
        let failed = |source| MemoryError::of(&shelf.size().name, source);
        self.reader.ask(id, &shelf);
        match self.reader.wait(id, go_on) {
            Read::Done(done) => {
                self.note_read(&done);
                done.result.map_err(failed)
            }
            Read::GivenUp => Err(MemoryError::Stopped),
            Read::NeverAsked => {
                let begun = Instant::now();
                shelf.read(&Pace::default()).map_err(failed)?;
                let size = shelf.size();
                self.note(&size.name, (Place::Disk, Place::Host), size.host, Some(begun));
                Ok(())
            }
        }
    }

    /// What came of reads that nobody waited for. One that failed is no reason to fail: the weights come from their files.
    pub(super) fn note_reads(&mut self) {
        for done in self.reader.ended() {
            if let (Err(error), Some(model)) = (&done.result, self.models.get(done.model.0)) {
                let name = model.name();
                tracing::warn!("{name} has no copy in main memory and will come from its files: {error}");
            }
            self.note_read(&done);
        }
    }

    fn note_read(&mut self, done: &Done) {
        let Some(model) = self.models.get(done.model.0).filter(|_| done.result.is_ok()) else { return };
        let size = model.shelf.size();
        let seconds = Some(done.took.as_secs_f64());
        let (from, to) = (Place::Disk, Place::Host);
        self.report.moves.push(MoveReport { model: size.name, from, to, bytes: size.host, seconds });
    }

    /// A read is the reader's; a copy that makes room for others is forgotten, and the reads behind it set out.
    fn on_host(&mut self, step: &Move) {
        if step.action != Action::Forget {
            return;
        }
        if let Some(model) = self.models.get(step.model.0) {
            let name = model.name().to_owned();
            self.reader.cancel(step.model);
            model.shelf.forget();
            self.note(&name, (Place::Host, Place::Disk), step.bytes, None);
        }
        if let Some(at) = self.request.host_moves.iter().position(|ahead| ahead == step) {
            self.request.host_moves.drain(..=at);
        }
        self.read_ahead();
    }

    /// Asks for all host copies that can be made before another has to make room: those first whose models are not on the
    /// device yet.
    pub(super) fn read_ahead(&mut self) {
        let moves = &mut self.request.host_moves;
        let count = moves.iter().take_while(|step| step.action == Action::Read).count();
        let reads: Vec<ModelId> = moves.drain(..count).map(|step| step.model).collect();
        let models = reads.iter().filter_map(|id| Some((*id, self.models.get(id.0)?)));
        let models = models.filter(|(_, model)| !model.shelf.is_on_host());
        let (here, coming): (Vec<_>, Vec<_>) = models.partition(|(_, model)| model.bytes() > 0);
        for (id, model) in coming.into_iter().chain(here) {
            self.reader.ask(id, &model.shelf);
        }
    }

    /// Before `coming` bytes come in: waits until what was freed is back, if there is no room for both. Waiting is waiting for
    /// all computing.
    fn settle_for(&mut self, coming: u64) -> Result<(), MemoryError> {
        let unsettled = self.unsettled()?;
        let work = self.visit().map_or(0, |visit| visit.work);
        let all = self.allocated() + unsettled + coming + work;
        let fits = self.request.budget.is_some_and(|budget| all <= budget);
        if unsettled == 0 || fits { Ok(()) } else { self.settle() }
    }

    fn note(&mut self, model: &str, (from, to): (Place, Place), bytes: u64, begun: Option<Instant>) {
        let seconds = begun.map(|begun| begun.elapsed().as_secs_f64());
        self.report.moves.push(MoveReport { model: model.to_owned(), from, to, bytes, seconds });
    }

    pub(super) fn log(&mut self, label: &str) {
        let allocated = self.models.iter().map(Model::bytes).sum();
        // A driver that does not answer will say so to somebody who can act on it.
        let usage = self.driver.usage().ok().flatten();
        let reserved = usage.map_or(allocated, |usage| usage.total.saturating_sub(usage.free));
        self.report.reserved_peak_bytes = self.report.reserved_peak_bytes.max(usage.map(|_| reserved));
        log_gpu_memory(label, allocated, reserved);
    }
}

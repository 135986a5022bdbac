//! What the steps of one job share: the plan, the nets, the phrase, which is set beside step 1, and FLUX's prompts, read when
//! the first of them is due.

use std::mem;
use std::thread::ScopedJoinHandle;

use super::fault::Fault;
use super::flux::{self, Read, ReadRun};
use super::journey::Journey;
use super::known::KnownPrompts;
use super::nets::Nets;
use super::runs::flux_runs;
use super::steps::Canvas;
use crate::imaging::typeset::TypesetError;
use crate::input::Plan;
use crate::progress::SubStep;

/// One job's.
pub struct Studio<'a> {
    /// What is asked for.
    pub plan: &'a Plan,
    /// All that the plan needs are open.
    pub nets: &'a Nets,
    known: &'a mut KnownPrompts,
    read: Option<Vec<Read>>,
    phrase: Phrase<'a>,
}

/// The job's phrase.
enum Phrase<'a> {
    /// There is none, or it was taken.
    None,
    BeingSet(ScopedJoinHandle<'a, Result<Canvas, TypesetError>>),
    Set(Box<Canvas>),
}

impl<'a> Studio<'a> {
    /// Nothing is read yet. `phrase` is being set.
    pub fn new(
        plan: &'a Plan,
        nets: &'a Nets,
        known: &'a mut KnownPrompts,
        phrase: Option<ScopedJoinHandle<'a, Result<Canvas, TypesetError>>>,
    ) -> Self {
        let phrase = phrase.map_or(Phrase::None, Phrase::BeingSet);
        Self { plan, nets, known, read: None, phrase }
    }

    /// Waits until the phrase, if there is one, is set: what cannot be set must not cost a picture first.
    ///
    /// # Errors
    /// It cannot be set.
    pub fn set_phrase(&mut self) -> Result<(), Fault> {
        self.phrase = match mem::replace(&mut self.phrase, Phrase::None) {
            Phrase::BeingSet(thread) => {
                let panicked = |_| Fault::Defect("the thread that set the phrase panicked".to_owned());
                Phrase::Set(Box::new(thread.join().map_err(panicked)??))
            }
            other => other,
        };
        Ok(())
    }

    /// Takes the phrase out.
    ///
    /// # Errors
    /// It cannot be set.
    pub fn canvas(&mut self) -> Result<Canvas, Fault> {
        self.set_phrase()?;
        match mem::replace(&mut self.phrase, Phrase::None) {
            Phrase::Set(canvas) => Ok(*canvas),
            _ => Err(Fault::Defect("a text step has no phrase".to_owned())),
        }
    }

    /// Takes out the FLUX run of `sub_step`; `None` where its strength leaves nothing to paint. The first call reads the
    /// prompts of all runs of the job; a run that was taken out frees its tables when it is dropped.
    ///
    /// # Errors
    /// A stop; what the encoders fail with.
    pub fn flux_run(
        &mut self,
        journey: &mut Journey<'_>,
        sub_step: SubStep,
    ) -> Result<Option<ReadRun>, Fault> {
        let runs = if let Some(runs) = self.read.take() {
            runs
        } else {
            let planned = flux_runs(self.plan);
            if !planned.iter().any(|run| run.sub_step == sub_step) {
                return Ok(None);
            }
            flux::read(journey, self.nets.flux()?, self.known, self.plan, &planned, sub_step)?
        };
        let (mut own, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(of, _)| *of == sub_step);
        self.read = Some(others);
        own.pop().map(|(_, run)| run).transpose()
    }
}

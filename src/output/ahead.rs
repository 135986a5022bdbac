//! Pictures are encoded from the moment they are made, while the engine goes on: steps 1 and 2 beside the next step, the last
//! picture beside the unloading of models.
//!
//! A file takes 30 to 50 ms of one core, which the answer would otherwise wait for. Must not know engines. Fed by
//! [`crate::worker`], asked by [`super::document`].

use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use image::DynamicImage;

use super::format::holding;
use crate::imaging::codecs::{EncodeError, encode};
use crate::input::Plan;
use crate::input::plan::OutputFormat;
use crate::progress::Step;

/// A file, or why there is none.
type File = Result<Vec<u8>, EncodeError>;

/// The encodings of one job that were begun.
#[derive(Debug)]
pub struct Ahead {
    format: OutputFormat,
    /// The first step whose picture the answer has.
    from: Step,
    begun: Mutex<Vec<JoinHandle<(DynamicImage, File)>>>,
}

impl Ahead {
    /// For the answer to `plan`; nothing is begun.
    pub fn of(plan: &Plan) -> Self {
        let last = plan.sub_steps().last().map_or(Step::Composition, |(sub_step, _)| sub_step.step());
        let from = if plan.output.return_intermediate { Step::Background } else { last };
        Self { format: plan.output.format, from, begun: Mutex::new(Vec::new()) }
    }

    /// Encodes `step`'s picture on a thread of its own, if the answer will have it.
    pub fn begin(&self, step: Step, image: DynamicImage) {
        if step < self.from {
            return;
        }
        let format = holding(&image, self.format);
        let work = move || {
            let file = encode(&image, format);
            (image, file)
        };
        // Without a thread it is encoded when it is asked for.
        if let Ok(thread) = thread::Builder::new().name("encode".into()).spawn(work) {
            self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
    }

    /// What was begun, once it is done. An encoding that panicked is left out: whoever needs it meets the panic again.
    pub(super) fn done(&self) -> Vec<(DynamicImage, File)> {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        begun.into_iter().filter_map(|thread| thread.join().ok()).collect()
    }
}

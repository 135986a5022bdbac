//! What a running engine may say and must ask.

use crate::job::StopHandle;
use crate::progress::{ProgressEvent, SubStep};

use super::EngineError;

/// Handed to [`super::Engine::run`]. Both calls cost nanoseconds and never block.
pub struct Ctx {
    stop: StopHandle,
    on_progress: Box<dyn Fn(ProgressEvent) + Send + Sync>,
}

impl Ctx {
    /// `on_progress` is called on the engine's thread and must not block.
    pub fn new(stop: StopHandle, on_progress: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self { stop, on_progress: Box::new(on_progress) }
    }

    /// A context that nobody watches: for tests and one-off runs.
    pub fn detached() -> Self {
        Self::new(StopHandle::new(), |_| ())
    }

    /// Reports that `done` of `total` units of `sub_step` are finished. `(0, total)` announces the sub-step;
    /// `(total, total)` ends it.
    pub fn progress(&self, sub_step: SubStep, done: u32, total: u32) {
        (self.on_progress)(ProgressEvent { sub_step, done, total });
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] once the job was told to stop.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.stop.reason() {
            Some(reason) => Err(EngineError::Stopped(reason)),
            None => Ok(()),
        }
    }
}

//! What a running engine may say and must ask.

use image::DynamicImage;

use crate::job::StopHandle;
use crate::progress::{ProgressEvent, Step, SubStep};

use super::EngineError;

/// Handed to [`super::Engine::run`]. No call blocks.
pub struct Ctx {
    stop: StopHandle,
    on_progress: Box<dyn Fn(ProgressEvent) + Send + Sync>,
    on_picture: Option<OnPicture>,
}

type OnPicture = Box<dyn Fn(Step, DynamicImage) + Send + Sync>;

impl Ctx {
    /// `on_progress` is called on the engine's thread and must not block.
    pub fn new(stop: StopHandle, on_progress: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self { stop, on_progress: Box::new(on_progress), on_picture: None }
    }

    /// `on_picture` is given each step's picture when it is made; on the engine's thread, so it must not block.
    #[must_use]
    pub fn showing(self, on_picture: impl Fn(Step, DynamicImage) + Send + Sync + 'static) -> Self {
        Self { on_picture: Some(Box::new(on_picture)), ..self }
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

    /// Shows `step`'s picture as it will be among the artifacts, if anybody looks; costs a copy of it.
    pub fn picture(&self, step: Step, image: &(impl Clone + Into<DynamicImage>)) {
        if let Some(on_picture) = &self.on_picture {
            on_picture(step, image.clone().into());
        }
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

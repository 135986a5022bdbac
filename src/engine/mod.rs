//! The seam behind which pictures are made.
//!
//! An engine is synchronous, lives on one OS thread of its own ([`crate::worker::Executor`]) and knows nothing of jobs
//! or networks. [`Ctx`] is its only way out.

mod ctx;
pub mod dummy;
#[cfg(feature = "models")]
pub mod real;
mod router;

pub use ctx::Ctx;
pub use router::Router;

use std::time::Duration;

use image::DynamicImage;
use serde_json::Value;

use crate::input::Plan;
use crate::job::{FailureKind, StopReason};
use crate::progress::{Step, SubStep};

/// Makes pictures from plans, one at a time.
pub trait Engine: Send {
    /// Runs every step that the plan asks for.
    ///
    /// Must call [`Ctx::check`] at least once a denoise step, [`Ctx::progress`] after each, and [`Ctx::picture`] when a step
    /// has its picture.
    ///
    /// # Errors
    /// [`EngineError`]; the engine must be usable for the next plan after any but [`EngineError::DeviceLost`].
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError>;
}

/// What a run produced. Images have the plan's width and height.
#[derive(Debug, Default)]
pub struct Artifacts {
    /// Step 1: background with the product (RGB).
    pub step1: Option<DynamicImage>,
    /// Step 2: the phrase on a transparent ground (RGBA).
    pub step2: Option<DynamicImage>,
    /// The last step's image, whichever step was last.
    pub final_image: Option<DynamicImage>,
    /// What the customer should know, in the order it happened.
    pub warnings: Vec<String>,
    /// Wall time of each sub-step that ran, in order.
    pub timings: Vec<(SubStep, Duration)>,
    /// Peak and per-step bytes, moves; `Null` where nothing was on a device.
    pub memory: Value,
    /// The driver's words if the device was lost after the pictures were safe: they are delivered all the same, and the
    /// worker is replaced.
    pub device_lost: Option<String>,
}

/// Why a run ended without its artifacts.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// [`Ctx::check`] said so.
    #[error("stopped: {0}")]
    Stopped(StopReason),
    /// The plan cannot be carried out with what this worker has: fonts without a glyph, a missing model, a card too small.
    #[error("{0}")]
    Unfit(String),
    /// This worker has no engine for the plan.
    #[error("{0}")]
    Unavailable(String),
    /// A step failed.
    #[error("{sub_step}: {message}")]
    Step {
        /// Where.
        sub_step: SubStep,
        /// What.
        message: String,
    },
    /// The device's memory ran out after everything without a use was freed.
    #[error("out of device memory in {sub_step}: {message}")]
    OutOfMemory {
        /// Where.
        sub_step: SubStep,
        /// Needed, free and total bytes, in words.
        message: String,
    },
    /// The device's context is lost; nothing on it works until the process is replaced.
    #[error("device lost in {sub_step}: {message}")]
    DeviceLost {
        /// Where.
        sub_step: SubStep,
        /// The driver's words.
        message: String,
    },
}

impl EngineError {
    /// The failure's stable name; `None` for a stop, which is no failure of the engine's.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Stopped(_) => None,
            Self::Unfit(_) => Some(FailureKind::InvalidInput),
            Self::Unavailable(_) => Some(FailureKind::Unavailable),
            Self::Step { .. } => Some(FailureKind::Engine),
            Self::OutOfMemory { .. } => Some(FailureKind::OutOfMemory),
            Self::DeviceLost { .. } => Some(FailureKind::DeviceLost),
        }
    }
}

/// Shows a step's picture if the step ran.
fn show(ctx: &Ctx, step: Step, image: Option<&(impl Clone + Into<DynamicImage>)>) {
    if let Some(image) = image {
        ctx.picture(step, image);
    }
}

/// An earlier step's image, which must have the plan's size.
fn supplied<'a, T: image::GenericImageView>(
    image: Option<&'a T>,
    name: &str,
    plan: &Plan,
) -> Result<&'a T, EngineError> {
    match image {
        Some(image) if image.dimensions() == (plan.width, plan.height) => Ok(image),
        Some(image) => Err(EngineError::Unfit(format!(
            "{name} is {} x {}, expected {} x {}",
            image.width(),
            image.height(),
            plan.width,
            plan.height
        ))),
        None => Err(EngineError::Unfit(format!(
            "a run from step {} needs {name}: send it, or start with an earlier step",
            plan.start.number()
        ))),
    }
}

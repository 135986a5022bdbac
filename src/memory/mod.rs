//! Who is on the device when: models in three places (disk, host memory, device) under a budget.
//!
//! Weights never change, so unloading only frees. [`schedule`] is the plan of a whole request before its first byte
//! moves, a pure function that `marquee plan` prints and [`Memory`] carries out; [`Lease`]s keep what is in use where it
//! is. Must not know steps, prompts or jobs: the engine says which models it visits in which order and how long each step's
//! may stay ([`timetable`]).

#[cfg(feature = "models")]
mod arena;
pub mod budget;
#[cfg(feature = "models")]
pub mod driver;
#[cfg(feature = "models")]
mod error;
#[cfg(feature = "models")]
pub mod fault;
#[cfg(feature = "models")]
mod lease;
#[cfg(feature = "models")]
mod loader;
mod log;
#[cfg(feature = "models")]
mod model;
#[cfg(feature = "models")]
pub mod pace;
#[cfg(feature = "models")]
pub mod packed;
#[cfg(feature = "models")]
mod packing;
#[cfg(feature = "models")]
mod parts;
#[cfg(feature = "models")]
mod passage;
#[cfg(feature = "models")]
mod pinned;
#[cfg(feature = "models")]
mod reader;
mod report;
#[cfg(feature = "models")]
mod residency;
pub mod schedule;
#[cfg(feature = "models")]
pub mod shelf;
#[cfg(feature = "models")]
mod store;
#[cfg(feature = "models")]
mod stored;
#[cfg(feature = "models")]
mod streaming;
mod timetable;
#[cfg(feature = "models")]
mod transfer;

pub use budget::Limit;
#[cfg(feature = "models")]
pub use error::{Full, MemoryError};
#[cfg(feature = "models")]
pub use lease::{Handle, Lease};
pub use log::log_gpu_memory;
#[cfg(feature = "models")]
pub use parts::Parts;
pub use report::Report;
#[cfg(feature = "models")]
pub use residency::{Limits, Memory, Spec};
pub use schedule::{CannotFit, Itinerary, ModelId, Schedule, Visit};
#[cfg(feature = "models")]
pub use store::Store;
pub use timetable::{StepRule, timetable};
#[cfg(feature = "models")]
pub use transfer::{Mark, Transfer};

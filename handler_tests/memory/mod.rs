//! Budgets, schedules, leases: none of it needs a card.

#[cfg(feature = "models")]
mod fault;
mod limits;
#[cfg(feature = "models")]
mod pace;
#[cfg(feature = "models")]
mod packed;
#[cfg(feature = "models")]
mod packing;
#[cfg(feature = "models")]
mod residency;
#[cfg(feature = "models")]
mod rounded;
mod schedule;
#[cfg(feature = "models")]
mod store;
#[cfg(feature = "models")]
mod streaming;

//! Budgets, schedules, leases: none of it needs a card.

mod limits;
mod schedule;
#[cfg(feature = "models")]
mod store;
#[cfg(feature = "models")]
mod streaming;

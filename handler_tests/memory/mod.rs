//! Budgets, schedules, leases: none of it needs a card.

#[cfg(feature = "models")]
mod fault;
mod limits;
#[cfg(feature = "models")]
mod residency;
mod schedule;

//! Budgets, schedules, leases: none of it needs a card.

mod limits;
mod schedule;

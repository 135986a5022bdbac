//! From raw JSON to a [`Plan`]: what was sent ([`wire`]), then what it means ([`plan`]).

pub mod plan;

pub use plan::Plan;

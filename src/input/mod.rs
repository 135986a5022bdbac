//! From raw JSON to a [`Plan`]: what was sent ([`wire`]), then what it means ([`validate`]).
//!
//! One table ([`fields`]) holds every name, alias, range and default. The reader, the JSON Schema and the echo in the
//! answer are functions of it. Nothing here knows engines, networks or jobs' lives. Called by [`crate::worker`] on a
//! blocking thread, and by the command line.

mod effects;
pub mod errors;
pub mod fields;
pub mod images;
pub mod kinds;
pub mod plan;
pub mod schema;
mod validate;
pub mod wire;

pub use errors::{ErrorCode, InputError, InputErrors};
pub use plan::Plan;
pub use schema::schema;
pub use validate::{InputLimits, plan};

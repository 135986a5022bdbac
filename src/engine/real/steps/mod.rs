//! The three steps on nets. Each takes pictures and gives pictures; [`super::journey`] knows what comes next.

mod background;
mod composition;
mod injection;
pub mod prompts;
mod text;

pub(super) use background::background;
pub(super) use composition::{Composed, compose};
pub(super) use text::{Canvas, canvas, text};

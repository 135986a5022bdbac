//! Pixels against references: Pillow's bytes, exact arithmetic, and what a person would see at once.

mod composite;
mod fonts;
mod golden;
mod masks;
mod placement;
mod typeset;

//! The `marquee` program.
fn main() {}

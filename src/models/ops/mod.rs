//! The one seam for kernels: every formula that a GPU would rather do in one pass, with its CPU implementation.
//!
//! Shapes are (batch, tokens, channels) unless said otherwise. Each function states where torch rounds to the compute
//! dtype; in f32 those points vanish. Nets call these instead of spelling the arithmetic out, so that a kernel replaces a
//! body here and nothing elsewhere. Must not know any model.

mod linear;

pub use linear::Linear;

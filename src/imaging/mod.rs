//! Pixels: fonts and shaping, edges, masks, placement, resampling, compositing, codecs.
//!
//! Knows no models, no jobs and no plans beyond the enums that name a position, a mode or a format. Both engines call it.
//! sRGB pixels are `image`'s 8 bit buffers; linear light exists only inside a function.

pub mod blur;
pub mod codecs;
pub mod composite;
pub mod edges;
pub mod fonts;
pub mod masks;
pub mod placement;
pub mod resample;
pub mod srgb;
pub mod typeset;

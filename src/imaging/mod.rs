//! Pixels: fonts and shaping, edges, masks, placement, resampling, compositing, codecs. Knows no models and no jobs.

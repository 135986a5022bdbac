//! The nets: weights in, tensors out, no policy.
//!
//! Nets take [`weights::Weights`] (a checked view on any checkpoint) and build on [`ops`] (the one seam for kernels).
//! They must not know where a job came from, what else is on the device, or how long anything may stay there.
//! Callers: the engine's steps, the command line's `generate` and `parity`.

pub mod birefnet;
pub mod checkpoint;
pub mod device;
mod finite;
pub mod flux;
pub mod generate;
pub mod image_processor;
pub mod ops;
pub mod parity;
mod pipeline_error;
pub mod published;
pub mod rng;
pub mod schedulers;
pub mod sdxl;
pub mod text_encoders;
pub mod tiny;
pub mod tokenizers;
pub mod vae;
pub mod weights;

pub use pipeline_error::PipelineError;

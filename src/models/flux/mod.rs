//! FLUX.1: the transformer and what conditions it, equal to diffusers' `FluxTransformer2DModel`.
//!
//! candle-transformers' `flux` is not used: it reads one key layout only, computes rotary angles in the ids' dtype,
//! keeps timestep and guidance in f32 where diffusers rounds, materialises the attention matrix and never clips in f16.
//! The weights are split in two by use: [`Conditioner`] (3.25 of 11.9 billion) runs once a request for all steps and may
//! leave the device, [`Transformer`] runs every step. Of these files only [`pipeline`] knows schedulers, encoders and pixels.

mod attention;
mod blocks;
mod conditioner;
mod config;
pub mod pipeline;
mod transformer;

pub use attention::warm;
pub use blocks::{DoubleBlock, SingleBlock};
pub use conditioner::{Conditioner, Modulation, StepModulation};
pub use config::FluxConfig;
pub use transformer::{BlockId, Transformer, positions};

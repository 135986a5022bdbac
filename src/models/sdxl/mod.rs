//! Stable Diffusion XL: the UNet, ControlNets beside it, and the pipelines over both, equal to diffusers'
//! `UNet2DConditionModel`, `ControlNetModel`, `StableDiffusionXLPipeline` and `StableDiffusionXLControlNetPipeline`.
//!
//! candle-transformers' `stable_diffusion` is not used: its UNet has no `text_time` conditioning, which SDXL cannot do
//! without; it computes sinusoids in the compute dtype, gates with the tanh form of GELU, holds whole score matrices, and
//! has neither ControlNets nor the Euler schedule. The nets must not know schedules or prompts, and nothing here knows
//! where weights lie (`checkpoint`) or what else is on the device. Callers: the engine, `generate`, `parity`.

mod blocks;
mod config;
mod controlnet;
mod embedding;
pub mod pipeline;
mod resnet;
mod transformer;
mod trunk;
mod unet;

pub use config::{ControlNetConfig, PerLevel, TrunkConfig, UnetConfig};
pub use controlnet::{ControlNet, Hint, Residuals};
pub use trunk::Conditioning;
pub use unet::Unet;

/// Numbers that say how the picture was cut: original height and width, crop top and left, target height and width.
pub const TIME_IDS: usize = 6;

//! `marquee generate`: one picture from one stage, so that anyone can hold it against the original.

mod cut_out;
mod flux;
mod sdxl;

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use clap::Subcommand;
use image::{DynamicImage, RgbImage};

pub use cut_out::CutOutOptions;
pub use flux::FluxOptions;
pub use sdxl::{ControlOptions, SdxlOptions};

use super::{Exit, place};
use crate::config::ModelConfig;
use crate::models::generate::Mode;

/// What to make. Options that are not given have diffusers' defaults.
#[derive(Debug, Clone, Subcommand)]
pub enum GenerateArgs {
    /// FLUX, from noise.
    #[command(alias = "txt2img")]
    TextToImage(FluxOptions),
    /// FLUX, from a picture.
    #[command(name = "img2img", alias = "image-to-image")]
    ImageToImage(FluxOptions),
    /// FLUX, from a picture and a mask.
    Inpaint(FluxOptions),
    /// SDXL, from noise.
    Sdxl(SdxlOptions),
    /// SDXL, steered by the edges of a control picture.
    Controlnet(ControlOptions),
    /// BiRefNet: a picture with its ground made transparent.
    CutOut(CutOutOptions),
}

pub(super) fn generate(config: &ModelConfig, args: &GenerateArgs) -> Result<Exit, String> {
    let begun = Instant::now();
    let (target, dtype) = place(config).map_err(|error| error.to_string())?;
    let device = target.open().map_err(|error| error.to_string())?;
    let on = On { dtype, device };
    let output = match args {
        GenerateArgs::TextToImage(options) => flux::generate(config, options, Mode::TextToImage, &on)?,
        GenerateArgs::ImageToImage(options) => flux::generate(config, options, Mode::ImageToImage, &on)?,
        GenerateArgs::Inpaint(options) => flux::generate(config, options, Mode::Inpaint, &on)?,
        GenerateArgs::Sdxl(options) => sdxl::generate(config, options, &on)?,
        GenerateArgs::Controlnet(options) => sdxl::generate_controlled(config, options, &on)?,
        GenerateArgs::CutOut(options) => cut_out::generate(config, options, &on)?,
    };
    println!("{}: {:.2} s, loading included", output.display(), begun.elapsed().as_secs_f64());
    Ok(Exit::Ok)
}

/// Where the nets run.
struct On {
    dtype: DType,
    device: Device,
}

fn open(path: &Path) -> Result<DynamicImage, String> {
    image::open(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn save(picture: impl Into<DynamicImage>, path: &Path) -> Result<(), String> {
    picture.into().save(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn save_rgb(picture: Result<RgbImage, String>, path: &Path) -> Result<(), String> {
    save(picture?, path)
}

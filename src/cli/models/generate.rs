//! `marquee generate`: one picture from one model, with a bar and the seconds that each part took.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;
use indicatif::ProgressBar;

use super::args::GenerateOptions;
use super::{Exit, place};
use crate::config::ModelConfig;
use crate::models::checkpoint::Caches;
use crate::models::flux::pipeline::Watch;
use crate::models::generate::{self, Options};

/// A bar over the denoise steps.
struct Bar(ProgressBar);

impl Watch for Bar {
    fn step(&mut self, done: u32, total: u32, _latents: &Tensor) -> ControlFlow<()> {
        self.0.set_length(total.into());
        self.0.set_position(done.into());
        ControlFlow::Continue(())
    }
}

pub(super) fn generate(config: &ModelConfig, options: &GenerateOptions) -> Result<Exit, String> {
    let begun = Instant::now();
    let (target, dtype) = place(config).map_err(|error| error.to_string())?;
    let device = target.open().map_err(|error| error.to_string())?;
    let request = Options {
        model: options.model.clone().unwrap_or_else(|| config.flux.model.clone()),
        replacements: config.flux.replacements(),
        caches: Caches::from_vars(|name| std::env::var(name).ok()),
        mode: options.mode.into(),
        prompt: options.prompt.clone(),
        negative_prompt: options.negative_prompt.clone(),
        true_cfg_scale: options.true_cfg_scale,
        width: options.width,
        height: options.height,
        steps: options.steps,
        guidance: options.guidance,
        strength: options.strength,
        seed: options.seed,
        max_sequence_length: options.max_sequence_length,
        image: options.image.clone(),
        mask: options.mask.clone(),
        padding_mask_crop: options.padding_mask_crop,
    };
    let bar = ProgressBar::new(0);
    let picture = generate::generate(&request, dtype, &device, &mut Bar(bar.clone()));
    bar.finish_and_clear();
    let picture = picture.map_err(|error| error.to_string())?;
    let shown = options.output.display();
    picture.save(&options.output).map_err(|error| format!("{shown}: {error}"))?;
    println!("{shown}: {:.2} s, loading included", begun.elapsed().as_secs_f64());
    Ok(Exit::Ok)
}

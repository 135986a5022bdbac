//! BiRefNet: what stands out of a picture, on a transparent ground.

use std::path::PathBuf;

use indicatif::ProgressBar;

use super::{On, open, save};
use crate::config::ModelConfig;
use crate::models::birefnet::BiRefNet;
use crate::models::checkpoint::{Caches, open_birefnet};

/// `marquee generate cut-out`.
#[derive(Debug, Clone, clap::Args)]
pub struct CutOutOptions {
    /// Folder or Hub id; default SEGMENTATION_MODEL.
    #[arg(long)]
    pub model: Option<String>,
    /// The picture.
    #[arg(long)]
    pub image: PathBuf,
    /// Estimate the foreground's own colours along the edge, where the photo mixes them with its ground.
    #[arg(long)]
    pub refine: bool,
    /// PNG or WebP to write.
    #[arg(long, default_value = "cut_out.png")]
    pub output: PathBuf,
}

pub(super) fn generate(config: &ModelConfig, options: &CutOutOptions, on: &On) -> Result<PathBuf, String> {
    let image = open(&options.image)?.into_rgb8();
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    let model = options.model.as_deref().unwrap_or(&config.segmentation);
    let files = open_birefnet(model, &caches).map_err(|error| error.to_string())?;
    let net = BiRefNet::new(&files.config, &files.weights(on.dtype, &on.device))
        .map_err(|error| error.to_string())?;
    let bar = ProgressBar::new(net.stages() as u64);
    let cut = net.cut_out(&image, options.refine, &mut |_| {
        bar.inc(1);
        Ok(())
    });
    bar.finish_and_clear();
    save(cut.map_err(|error| error.to_string())?, &options.output)?;
    Ok(options.output.clone())
}

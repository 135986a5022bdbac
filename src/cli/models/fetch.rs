//! `marquee models fetch`: brings what the configuration names; `models check --checksums`: sums what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Exit;
use crate::config::ModelConfig;
use crate::http_client;
use crate::hub::{self, Hub, HubError, Place};
use crate::models::checkpoint::{Caches, Location, locate};

const PUBLIC_HUB: &str = "https://huggingface.co";
const PATIENCE: Duration = Duration::from_secs(1);

/// Where to, in words of the command line.
pub(super) struct Fetching<'a> {
    /// Hub ids; empty: what the configuration names.
    pub(super) models: &'a [String],
    /// A folder instead of the cache.
    pub(super) to: Option<&'a Path>,
    /// Branch, tag or commit.
    pub(super) revision: &'a str,
}

/// Every Hub id that the configuration names. Paths are the user's own files.
pub(super) fn configured(config: &ModelConfig) -> Vec<String> {
    let vae = config.sdxl.vae_of(&config.sdxl.model).map(ToOwned::to_owned);
    let mut seen = BTreeSet::new();
    [&config.flux.model, &config.sdxl.model, &config.sdxl.controlnet, &config.segmentation]
        .into_iter()
        .cloned()
        .chain(vae)
        .filter(|model| !Path::new(model).exists() && seen.insert(model.clone()))
        .collect()
}

/// Fetches one model after the other; the first failure ends the command.
pub(super) async fn fetch(config: &ModelConfig, fetching: &Fetching<'_>) -> Result<Exit, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| PUBLIC_HUB.to_owned());
    let hub = Hub {
        client: http_client::client().map_err(|error| error.to_string())?,
        endpoint: endpoint.parse().map_err(|error| format!("HF_ENDPOINT {endpoint:?}: {error}"))?,
        token: variable("HF_TOKEN"),
        patience: PATIENCE,
    };
    let models = match fetching.models {
        [] => configured(config),
        models => models.to_vec(),
    };
    let caches = Caches::from_vars(variable);
    for model in &models {
        let place = place(fetching, &caches, model).map_err(|error| error.to_string())?;
        let folder = one(&hub, model, fetching.revision, &place).await.map_err(|error| error.to_string())?;
        println!("{model}: {}", folder.display());
    }
    if models.is_empty() {
        println!("every configured model is a path; nothing to fetch");
    }
    Ok(Exit::Ok)
}

fn place(fetching: &Fetching<'_>, caches: &Caches, model: &str) -> Result<Place, HubError> {
    match (fetching.to, caches.roots.first()) {
        (Some(folder), _) => Place::in_folder(folder, model),
        (None, Some(cache)) => Place::in_cache(cache, model),
        // Caches always end with the platform's folder.
        (None, None) => Place::in_folder(Path::new("."), model),
    }
}

async fn one(hub: &Hub, model: &str, revision: &str, place: &Place) -> Result<PathBuf, HubError> {
    let listing = hub::list(hub, model, revision).await?;
    let files = hub::wanted(&listing.files);
    let missing = place.missing(&files);
    let total: u64 = missing.iter().map(|file| file.size).sum();
    eprintln!("{model}: {} of {} files to fetch, {:.1} GB", missing.len(), files.len(), total as f64 / 1e9);
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    let arrived = |change: i64| match u64::try_from(change) {
        Ok(more) => bar.inc(more),
        Err(_) => bar.set_position(bar.position().saturating_sub(change.unsigned_abs())),
    };
    hub::fetch(hub, &listing, &files, place, &arrived).await?;
    bar.finish_and_clear();
    Ok(place.model(&listing))
}

/// Sums every file of `model` whose checksum is known.
pub(super) fn sum(model: &str, caches: &Caches) -> Result<String, String> {
    let folder = match locate(model, caches).map_err(|error| error.to_string())? {
        Location::Folder(folder) => folder,
        Location::File(file) => {
            return Err(format!("{}: a single file has no checksum beside it", file.display()));
        }
    };
    let (right, wrong) = hub::verify(&folder).map_err(|error| error.to_string())?;
    if wrong.is_empty() {
        return Ok(format!("{model}: {right} files have the right checksum"));
    }
    Err(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

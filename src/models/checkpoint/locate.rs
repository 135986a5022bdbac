//! From what a user wrote (a folder, a file, a Hub id) to a place on disk. Never downloads.

use std::path::{Path, PathBuf};

use super::CheckpointError;

/// RunPod mounts the endpoint's cached model here, in the Hub's cache layout.
const RUNPOD_CACHE: &str = "/runpod-volume/huggingface-cache/hub";

/// Folders in the Hub's cache layout (`models--org--name/snapshots/…`), searched in order.
#[derive(Debug, Clone, Default)]
pub struct Caches {
    /// Folders that hold `models--…`.
    pub roots: Vec<PathBuf>,
}

impl Caches {
    /// Where `huggingface_hub` looks, then RunPod's cache. `variable` reads an environment variable.
    pub fn from_vars(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut roots = Vec::new();
        if let Some(root) = variable("HF_HUB_CACHE") {
            roots.push(PathBuf::from(root));
        }
        if let Some(home) = variable("HF_HOME") {
            roots.push(Path::new(&home).join("hub"));
        }
        let cache = variable("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
        roots.extend(cache.map(|cache| cache.join("huggingface/hub")));
        roots.push(PathBuf::from(RUNPOD_CACHE));
        Self { roots }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder with `model_index.json` and a folder a net.
    Folder(PathBuf),
    /// One file with a transformer.
    File(PathBuf),
}

/// Finds `model`: an existing path, or a Hub id (`org/name`) in one of the caches.
///
/// # Errors
/// [`CheckpointError::NotFound`] with every place that was looked at; [`CheckpointError::Layout`] if a cache entry is
/// incomplete.
pub fn locate(model: &str, caches: &Caches) -> Result<Location, CheckpointError> {
    let path = Path::new(model);
    let mut searched = vec![path.to_owned()];
    if path.is_file() {
        return Ok(Location::File(path.to_owned()));
    }
    if path.is_dir() {
        // A repository's folder of a cache counts as a path to its snapshot.
        let folder = if path.join("snapshots").is_dir() { snapshot(path)? } else { path.to_owned() };
        return Ok(Location::Folder(folder));
    }
    let Some((organisation, name)) = hub_id(model) else {
        let hint = " Give a folder, a file, or a Hub id (organisation/name).".to_owned();
        return Err(CheckpointError::NotFound { model: model.to_owned(), searched, hint });
    };
    for root in &caches.roots {
        let repository = root.join(format!("models--{organisation}--{name}"));
        if repository.is_dir() {
            return snapshot(&repository).map(Location::Folder);
        }
        searched.push(repository);
    }
    let hint = format!(" Fetch it with `hf download {model}`, or set the endpoint's cached model to it.");
    Err(CheckpointError::NotFound { model: model.to_owned(), searched, hint })
}

fn hub_id(model: &str) -> Option<(&str, &str)> {
    let (organisation, name) = model.split_once('/')?;
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (word(organisation) && word(name)).then_some((organisation, name))
}

/// The snapshot that `refs/main` names, or the only one.
fn snapshot(repository: &Path) -> Result<PathBuf, CheckpointError> {
    let snapshots = repository.join("snapshots");
    let reference = repository.join("refs/main");
    if let Ok(revision) = std::fs::read_to_string(&reference) {
        let folder = snapshots.join(revision.trim());
        if folder.is_dir() {
            return Ok(folder);
        }
        return Err(CheckpointError::layout(&folder, "the snapshot that refs/main names", "nothing"));
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&snapshots)
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    match folders.len() {
        1 => Ok(folders.swap_remove(0)),
        count => Err(CheckpointError::layout(
            &snapshots,
            "refs/main beside it, or exactly one snapshot",
            format!("{count} snapshots and no refs/main"),
        )),
    }
}

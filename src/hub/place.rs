//! Where a model's files go, and which of them are missing.
//!
//! Two layouts. The Hub's cache, as its Python library and the platform's model cache have it: blobs named by checksum, a
//! snapshot of links to them, `refs/main` written last, so that a half-fetched model is never found. Or a plain folder,
//! with a manifest for later checks, written last too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::digest::Checksum;
use super::listing::{Listing, RemoteFile};
use super::{HubError, repository};

/// Written beside the files of a plain folder.
pub(super) const MANIFEST: &str = ".marquee-manifest.json";

/// A plain folder's files and their checksums.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Manifest {
    id: String,
    commit: String,
    pub(super) files: BTreeMap<String, Checksum>,
}

impl Manifest {
    pub(super) fn read(path: &Path) -> Result<Self, HubError> {
        let text = std::fs::read(path).map_err(HubError::file(path))?;
        serde_json::from_slice(&text).map_err(|error| HubError::Unexpected {
            url: path.display().to_string(),
            expected: "a manifest as `marquee models fetch` writes it",
            found: error.to_string(),
        })
    }
}

/// Where one model goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The folder `models--organisation--name` of a cache.
    Cache(PathBuf),
    /// A folder with the repository's own structure.
    Folder(PathBuf),
}

impl Place {
    /// `id`'s place in the cache `root`.
    ///
    /// # Errors
    /// [`HubError::NotAnId`].
    pub fn in_cache(root: &Path, id: &str) -> Result<Self, HubError> {
        let (organisation, name) = repository(id)?;
        Ok(Self::Cache(root.join(format!("models--{organisation}--{name}"))))
    }

    /// `root/organisation/name`.
    ///
    /// # Errors
    /// [`HubError::NotAnId`].
    pub fn in_folder(root: &Path, id: &str) -> Result<Self, HubError> {
        let (organisation, name) = repository(id)?;
        Ok(Self::Folder(root.join(organisation).join(name)))
    }

    /// What a configuration variable may name once everything is there.
    pub fn model(&self, listing: &Listing) -> PathBuf {
        match self {
            Self::Cache(root) => root.join("snapshots").join(&listing.commit),
            Self::Folder(root) => root.clone(),
        }
    }

    /// Where a file's bytes go.
    pub(super) fn bytes_of(&self, file: &RemoteFile) -> PathBuf {
        match self {
            Self::Cache(root) => root.join("blobs").join(file.checksum.as_str()),
            Self::Folder(root) => root.join(&file.path),
        }
    }

    /// Those of `files` that are not there in full. A file of the right length under its final name was verified when it
    /// got that name; `models check --checksums` does so again. In a plain folder the manifest must agree as well.
    pub fn missing<'a>(&self, files: &'a [RemoteFile]) -> Vec<&'a RemoteFile> {
        let known = match self {
            Self::Cache(_) => None,
            Self::Folder(root) => Some(Manifest::read(&root.join(MANIFEST)).map(|manifest| manifest.files)),
        };
        let there = |file: &RemoteFile| {
            let whole =
                self.bytes_of(file).metadata().is_ok_and(|found| found.is_file() && found.len() == file.size);
            let same = match &known {
                None => true,
                Some(Ok(known)) => known.get(&file.path) == Some(&file.checksum),
                Some(Err(_)) => false,
            };
            whole && same
        };
        files.iter().filter(|file| !there(file)).collect()
    }

    /// Refuses if the file system has less room than `needed` bytes.
    pub(super) fn check_room(&self, needed: u64) -> Result<(), HubError> {
        let root = match self {
            Self::Cache(root) | Self::Folder(root) => root,
        };
        std::fs::create_dir_all(root).map_err(HubError::file(root))?;
        let room = rustix::fs::statvfs(root)
            .map_err(|error| HubError::File { path: root.clone(), source: error.into() })?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if free < needed {
            return Err(HubError::DiskFull { path: root.clone(), needed, free });
        }
        Ok(())
    }

    /// Makes the model findable, once all `files` are there.
    pub(super) fn publish(&self, listing: &Listing, files: &[RemoteFile]) -> Result<(), HubError> {
        match self {
            Self::Cache(root) => {
                let snapshot = root.join("snapshots").join(&listing.commit);
                for file in files {
                    link(&snapshot, file)?;
                }
                let refs = root.join("refs");
                std::fs::create_dir_all(&refs).map_err(HubError::file(&refs))?;
                replace(&refs.join("main"), listing.commit.as_bytes())
            }
            Self::Folder(root) => {
                let manifest = Manifest {
                    id: listing.id.clone(),
                    commit: listing.commit.clone(),
                    files: files.iter().map(|file| (file.path.clone(), file.checksum.clone())).collect(),
                };
                let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
                replace(&root.join(MANIFEST), &text)
            }
        }
    }
}

/// `snapshot/a/b.json -> ../../../blobs/…`: relative, so that a cache may be moved or mounted elsewhere.
fn link(snapshot: &Path, file: &RemoteFile) -> Result<(), HubError> {
    let path = snapshot.join(&file.path);
    let folder = path.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(folder).map_err(HubError::file(folder))?;
    let up = "../".repeat(2 + file.path.matches('/').count());
    let target = PathBuf::from(format!("{up}blobs/{}", file.checksum));
    if path.read_link().is_ok_and(|found| found == target) {
        return Ok(());
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(HubError::file(&path)(error));
        }
        _ => {}
    }
    std::os::unix::fs::symlink(target, &path).map_err(HubError::file(&path))
}

/// Writes a small file so that readers see the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes).map_err(HubError::file(&fresh))?;
    std::fs::rename(&fresh, path).map_err(HubError::file(path))
}

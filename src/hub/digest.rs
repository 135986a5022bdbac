//! Checksums as the Hub gives them: SHA-256 for large files, git's blob id for small ones.
//!
//! The cache layout names blobs by them, so a cache can be verified without asking the Hub; a plain folder has the manifest
//! that [`super::Place`] wrote.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::HubError;
use super::place::{MANIFEST, Manifest};

/// What a file's bytes must add up to. Lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Checksum {
    /// Of the bytes.
    Sha256(String),
    /// SHA-1 of `blob `, the length, a zero, the bytes.
    GitBlob(String),
}

impl Checksum {
    /// From a blob's name in the cache layout; `None` for names of another form.
    pub fn of_blob_name(name: &str) -> Option<Self> {
        let hexadecimal = name.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        match name.len() {
            64 if hexadecimal => Some(Self::Sha256(name.to_owned())),
            40 if hexadecimal => Some(Self::GitBlob(name.to_owned())),
            _ => None,
        }
    }

    /// The blob's name in the cache layout.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::GitBlob(text) => text,
        }
    }

    /// Starts summing a file of `size` bytes.
    pub(super) fn begin(&self, size: u64) -> Summing {
        Summing(match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        })
    }

    /// Sums `path` and compares.
    ///
    /// # Errors
    /// [`HubError::Corrupt`], [`HubError::File`].
    pub fn check(&self, path: &Path) -> Result<(), HubError> {
        let size = path.metadata().map_err(HubError::file(path))?.len();
        let mut summing = self.begin(size);
        summing.read(path, u64::MAX)?;
        let found = summing.end();
        if found == self.as_str() {
            return Ok(());
        }
        Err(HubError::Corrupt { file: path.display().to_string(), expected: self.as_str().to_owned(), found })
    }
}

impl Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sum under way.
#[derive(Clone)]
pub(super) struct Summing(Context);

impl Summing {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the first `length` bytes of a file.
    pub(super) fn read(&mut self, path: &Path, length: u64) -> Result<(), HubError> {
        let mut file = File::open(path).map_err(HubError::file(path))?.take(length);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(HubError::file(path))? {
                0 => return Ok(()),
                count => self.update(&buffer[..count]),
            }
        }
    }

    pub(super) fn end(self) -> String {
        self.0.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Sums every file of a model's folder whose checksum is known: a snapshot of the cache layout (files are links to blobs
/// named by their sums), or a folder with a manifest. Returns how many were right, and what was wrong.
///
/// # Errors
/// [`HubError::File`] if the folder cannot be read; [`HubError::Unexpected`] if it has neither links nor a manifest.
pub fn verify(folder: &Path) -> Result<(usize, Vec<HubError>), HubError> {
    let mut right = 0;
    let mut wrong = Vec::new();
    for (path, checksum) in known(folder)? {
        match checksum.check(&path) {
            Ok(()) => right += 1,
            Err(error) => wrong.push(error),
        }
    }
    if right == 0 && wrong.is_empty() {
        return Err(HubError::Unexpected {
            url: folder.display().to_string(),
            expected: "files of the Hub's cache, or a manifest that `marquee models fetch` wrote",
            found: "neither".to_owned(),
        });
    }
    Ok((right, wrong))
}

fn known(folder: &Path) -> Result<Vec<(PathBuf, Checksum)>, HubError> {
    let manifest = folder.join(MANIFEST);
    if manifest.is_file() {
        let manifest = Manifest::read(&manifest)?;
        return Ok(manifest.files.into_iter().map(|(file, sum)| (folder.join(file), sum)).collect());
    }
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(HubError::file(&folder))? {
            let path = entry.map_err(HubError::file(&folder))?.path();
            if let Ok(target) = path.read_link() {
                let name = target.file_name().and_then(|name| name.to_str());
                if let Some(checksum) = name.and_then(Checksum::of_blob_name) {
                    found.push((path, checksum));
                }
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

//! What a repository holds at a revision: one request.

use serde::Deserialize;
use url::Url;

use super::digest::Checksum;
use super::{Hub, HubError, repository};

/// A repository's files at one commit.
#[derive(Debug, Clone)]
pub struct Listing {
    /// `organisation/name`.
    pub id: String,
    /// The commit that the revision stood for; files are fetched from it, so a push in between mixes nothing.
    pub commit: String,
    /// All files.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Below the repository's root, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of its bytes.
    pub checksum: Checksum,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Lists `id` at `revision` (`main`, a branch, a tag or a commit).
///
/// # Errors
/// [`HubError`].
pub async fn list(hub: &Hub, id: &str, revision: &str) -> Result<Listing, HubError> {
    repository(id)?;
    let mut url = hub.url(&["api", "models"], id, &["revision", revision])?;
    url.set_query(Some("blobs=true"));
    let body = hub.text(&url).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| HubError::Unexpected {
        url: url.to_string(),
        expected: "a repository's description with sizes",
        found: error.to_string(),
    })?;
    let unexpected = |found: String| HubError::Unexpected {
        url: url.to_string(),
        expected: "for each file a relative path, its size and its checksum",
        found,
    };
    let files = answer
        .siblings
        .into_iter()
        .map(|sibling| {
            let path = sibling.rfilename;
            // It becomes a path on this machine.
            let harmless = !path.contains('\\')
                && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            let (size, checksum) = match (sibling.lfs, sibling.size, sibling.blob_id) {
                (Some(lfs), ..) => (lfs.size, Checksum::of_blob_name(&lfs.sha256)),
                (None, Some(size), Some(blob)) => (size, Checksum::of_blob_name(&blob)),
                _ => (0, None),
            };
            match checksum {
                Some(checksum) if harmless => Ok(RemoteFile { path, size, checksum }),
                _ => Err(unexpected(path)),
            }
        })
        .collect::<Result<_, _>>()?;
    if Checksum::of_blob_name(&answer.sha).is_none() {
        return Err(unexpected(format!("commit {:?}", answer.sha)));
    }
    Ok(Listing { id: id.to_owned(), commit: answer.sha, files })
}

impl Hub {
    /// `endpoint/before…/organisation/name/after…`, each part quoted.
    pub(super) fn url(&self, before: &[&str], id: &str, after: &[&str]) -> Result<Url, HubError> {
        let (organisation, name) = repository(id)?;
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| HubError::Unexpected {
                url: self.endpoint.to_string(),
                expected: "an http or https address in HF_ENDPOINT",
                found: "one without a path".to_owned(),
            })?
            .pop_if_empty()
            .extend(before)
            .extend([organisation, name])
            .extend(after);
        Ok(url)
    }
}

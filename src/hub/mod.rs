//! Fetching models from the Hub: what the worker reads and nothing else, resumable, verified.
//!
//! [`list`] asks what a repository holds, [`wanted`] chooses, [`Place`] says where it goes and what is missing,
//! [`fetch`] brings it. Must not know nets or steps. Callers: `marquee models fetch` and `models check --checksums`.
//!
//! Crate hf-hub 1.0 is not used: it writes `.incomplete` files but starts them over after a break, and brings 200 crates for
//! uploads and its storage protocol. The Hub still serves plain HTTP with ranges, and our client speaks that already.

mod digest;
mod download;
mod listing;
mod place;
mod select;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

pub use digest::{Checksum, verify};
pub use download::fetch;
pub use listing::{Listing, RemoteFile, list};
pub use place::Place;
pub use select::wanted;

/// Where models come from, and as whom.
#[derive(Clone)]
pub struct Hub {
    /// The process's client; it follows no redirects, so that a token never goes to another host unnoticed.
    pub client: reqwest::Client,
    /// `HF_ENDPOINT`, default the public Hub.
    pub endpoint: Url,
    /// `HF_TOKEN`: needed for gated models.
    pub token: Option<String>,
    /// Wait before the first repetition of what a network broke; doubles up to 32 times that.
    pub patience: Duration,
}

/// Why a model was not fetched. What arrived stays, and the next try goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not of the form `organisation/name`.
    #[error("model {0:?}: expected a Hub id such as black-forest-labs/FLUX.1-dev")]
    NotAnId(String),
    /// 401 or 403.
    #[error(
        "{url}: the Hub answered {status}. The model is gated or private: accept its licence on its page with your \
         account, and set HF_TOKEN to a token of that account that may read it"
    )]
    Refused {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// 404.
    #[error("{url}: the Hub answered 404: no such model or file; check the name (capitals count)")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The Hub's answer makes no sense.
    #[error("{url}: expected {expected}, found {found}")]
    Unexpected {
        /// What was asked for.
        url: String,
        /// In words.
        expected: &'static str,
        /// In words.
        found: String,
    },
    /// The network, after all repetitions.
    #[error(
        "{url}: no progress in {attempts} attempts, the last: {reason}. Run the command again to go on from {have} bytes"
    )]
    Network {
        /// What was asked for.
        url: String,
        /// How often.
        attempts: u32,
        /// The last attempt's end.
        reason: String,
        /// What is on disk.
        have: u64,
    },
    /// All bytes arrived and are not the right ones; they were deleted.
    #[error(
        "{file}: expected checksum {expected}, found {found}: the file was deleted; run the command again"
    )]
    Corrupt {
        /// In the repository.
        file: String,
        /// The Hub's.
        expected: String,
        /// Of what arrived.
        found: String,
    },
    /// Too little room.
    #[error("{}: {needed} bytes are missing of the model, {free} are free; free {} more or choose another place with --to", path.display(), needed - free)]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Still to fetch.
        needed: u64,
        /// Available to this user.
        free: u64,
    },
    /// Another process writes the same file.
    #[error("{}: another process is fetching this file; wait for it", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The file system.
    #[error("{}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What.
        source: std::io::Error,
    },
}

impl HubError {
    fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// What an answer that is no success means; `None` if asking again may help.
    fn of_status(url: &Url, status: StatusCode) -> Option<Self> {
        let url = url.to_string();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Self::Refused { url, status }),
            StatusCode::NOT_FOUND => Some(Self::NotFound { url }),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => None,
            status if status.is_server_error() => None,
            status => Some(Self::Unexpected { url, expected: "a file", found: format!("status {status}") }),
        }
    }
}

/// `organisation/name`, checked: it becomes part of URLs and of paths.
fn repository(id: &str) -> Result<(&str, &str), HubError> {
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match id.split_once('/') {
        Some((organisation, name)) if word(organisation) && word(name) => Ok((organisation, name)),
        _ => Err(HubError::NotAnId(id.to_owned())),
    }
}

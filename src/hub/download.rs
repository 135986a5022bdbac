//! Bringing files: several at once, each from where it broke off, renamed only when its checksum is right.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE};
use reqwest::{Response, StatusCode};
use rustix::fs::{FlockOperation, flock};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::listing::{Listing, RemoteFile};
use super::{Hub, HubError, Place};

/// Files on their way at the same time: one connection of a content network rarely fills the line.
const AT_ONCE: usize = 4;
/// Attempts without a single new byte before giving up.
const ATTEMPTS: u32 = 6;
/// From the Hub to its content network, sometimes by way of another mirror.
const REDIRECTS: usize = 5;
/// Silence after which a transfer counts as broken.
const SILENCE: Duration = Duration::from_secs(60);

/// Brings what is missing of `files` to `place` and makes the model findable there. `arrived` is told of every byte, those
/// that an earlier run left included, and, negatively, of those that had to be thrown away.
///
/// # Errors
/// [`HubError`]; whatever arrived stays for the next run.
pub async fn fetch(
    hub: &Hub,
    listing: &Listing,
    files: &[RemoteFile],
    place: &Place,
    arrived: &(dyn Fn(i64) + Send + Sync),
) -> Result<(), HubError> {
    let missing = place.missing(files);
    let begun = |file: &&RemoteFile| partial(&place.bytes_of(file)).metadata().map_or(0, |found| found.len());
    let needed = missing.iter().map(|file| file.size.saturating_sub(begun(file))).sum();
    place.check_room(needed)?;
    futures_util::stream::iter(missing.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |file| one(hub, listing, file, place, arrived))
        .await?;
    place.publish(listing, files)
}

/// Where a file grows; beside its final place, so that renaming is one step.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

async fn one(
    hub: &Hub,
    listing: &Listing,
    file: &RemoteFile,
    place: &Place,
    arrived: &(dyn Fn(i64) + Send + Sync),
) -> Result<(), HubError> {
    let path = place.bytes_of(file);
    let growing = partial(&path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(HubError::file(folder))?;
    }
    let held = File::options().create(true).append(true).open(&growing).map_err(HubError::file(&growing))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| HubError::Busy { path: growing.clone() })?;
    let url = hub.url(
        &[],
        &listing.id,
        &[&["resolve", &listing.commit], &file.path.split('/').collect::<Vec<_>>()[..]].concat(),
    )?;
    let length = || held.metadata().map(|found| found.len()).map_err(HubError::file(&growing));
    let mut have = length()?;
    if have > file.size {
        held.set_len(0).map_err(HubError::file(&growing))?;
        have = 0;
    }
    arrived(have as i64);
    let mut attempts = 0;
    while have < file.size {
        let Some(reason) = part(hub, &url, &held, &growing, have, file.size, arrived).await? else { break };
        let before = have;
        have = length()?;
        // A line that breaks every gigabyte still gets there.
        attempts = if have > before { 1 } else { attempts + 1 };
        if attempts >= ATTEMPTS {
            return Err(HubError::Network { url: url.to_string(), attempts, reason, have });
        }
        tracing::warn!(%url, have, of = file.size, reason, "the transfer broke; going on");
        tokio::time::sleep(hub.patience * 2u32.pow(attempts.min(5))).await;
        have = length()?;
    }
    held.sync_all().map_err(HubError::file(&growing))?;
    let (checksum, checked) = (file.checksum.clone(), growing.clone());
    let sums = tokio::task::spawn_blocking(move || checksum.check(&checked));
    match sums.await {
        Ok(Ok(())) => std::fs::rename(&growing, &path).map_err(HubError::file(&path)),
        Ok(Err(HubError::Corrupt { expected, found, .. })) => {
            std::fs::remove_file(&growing).map_err(HubError::file(&growing))?;
            arrived(-(file.size as i64));
            Err(HubError::Corrupt { file: file.path.clone(), expected, found })
        }
        Ok(Err(error)) => Err(error),
        Err(error) => Err(HubError::File { path: growing, source: std::io::Error::other(error) }),
    }
}

/// One transfer from byte `from` to the end: `None` when the end was reached, else why not.
async fn part(
    hub: &Hub,
    url: &Url,
    held: &File,
    growing: &Path,
    from: u64,
    size: u64,
    arrived: &(dyn Fn(i64) + Send + Sync),
) -> Result<Option<String>, HubError> {
    let response = match hub.get(url, Some(from)).await {
        Ok(response) => response,
        Err(Broken::For(error)) => return Err(error),
        Err(Broken::Now(reason)) => return Ok(Some(reason)),
    };
    let mut at = from;
    let continues = response.status() == StatusCode::PARTIAL_CONTENT
        && response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).is_some_and(|range| {
            range.strip_prefix("bytes ").is_some_and(|range| range.starts_with(&format!("{from}-")))
        });
    if !continues && from > 0 {
        // The server starts over, and so does the file.
        held.set_len(0).map_err(HubError::file(growing))?;
        arrived(-(from as i64));
        at = 0;
    }
    let copy = held.try_clone().map_err(HubError::file(growing))?;
    let mut file = tokio::fs::File::from_std(copy);
    let mut body = response.bytes_stream();
    let end = loop {
        let chunk = match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => break Some(words(&error)),
            Ok(None) if at == size => break None,
            Ok(None) => break Some(format!("the transfer ended at byte {at} of {size}")),
            Err(_) => break Some(format!("silence for {} s", SILENCE.as_secs())),
        };
        at += chunk.len() as u64;
        if at > size {
            return Err(HubError::Unexpected {
                url: url.to_string(),
                expected: "as many bytes as the repository states",
                found: format!("more than {size}"),
            });
        }
        file.write_all(&chunk).await.map_err(HubError::file(growing))?;
        arrived(chunk.len() as i64);
    };
    file.flush().await.map_err(HubError::file(growing))?;
    Ok(end)
}

/// How a request ended without an answer to read.
enum Broken {
    /// Asking again may help.
    Now(String),
    /// It will not.
    For(HubError),
}

impl Hub {
    /// A small answer in full, asked for until it comes.
    pub(super) async fn text(&self, url: &Url) -> Result<Vec<u8>, HubError> {
        let mut attempts = 0;
        loop {
            let reason = match self.get(url, None).await {
                Ok(response) => match response.bytes().await {
                    Ok(body) => return Ok(body.to_vec()),
                    Err(error) => words(&error),
                },
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Now(reason)) => reason,
            };
            attempts += 1;
            if attempts >= ATTEMPTS {
                return Err(HubError::Network { url: url.to_string(), attempts, reason, have: 0 });
            }
            tokio::time::sleep(self.patience * 2u32.pow(attempts.min(5))).await;
        }
    }

    /// Asks, following redirects. The token goes to the endpoint's own host only: content networks get a signed address
    /// instead, and must not learn it.
    async fn get(&self, url: &Url, from: Option<u64>) -> Result<Response, Broken> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.client.get(url.clone());
            if let (Some(token), true) = (&self.token, url.origin() == self.endpoint.origin()) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answered = tokio::time::timeout(SILENCE, request.send()).await;
            let response = match answered {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(Broken::Now(words(&error))),
                Err(_) => return Err(Broken::Now(format!("no answer within {} s", SILENCE.as_secs()))),
            };
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status.is_redirection() {
                let next = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let Some(next) = next.and_then(|to| url.join(to).ok()) else {
                    return Err(Broken::For(HubError::Unexpected {
                        url: url.to_string(),
                        expected: "an address to go on to",
                        found: format!("status {status} without a readable Location"),
                    }));
                };
                url = next;
                continue;
            }
            return Err(HubError::of_status(&url, status)
                .map_or_else(|| Broken::Now(format!("status {status}")), Broken::For));
        }
        Err(Broken::For(HubError::Unexpected {
            url: url.to_string(),
            expected: "a file",
            found: format!("more than {REDIRECTS} redirects"),
        }))
    }
}

/// An error with its causes, without the address (it may be signed).
fn words(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.is_empty() { "the connection broke".to_owned() } else { text }
}

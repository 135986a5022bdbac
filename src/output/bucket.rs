//! Stores images in an S3-compatible bucket: presigned PUT, retried; presigned GET as the address in the answer.
//!
//! Knows files and names, not documents. Called by [`super::render_for_delivery`].

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rusty_s3::actions::{GetObject, PutObject, S3Action as _};
use rusty_s3::{Credentials, UrlStyle};
use url::Url;

use super::format::{extension, media_type};
use crate::config::BucketConfig;
use crate::input::plan::OutputFormat;
use crate::job::JobId;

/// How long an address in an answer works: the longest that the signature scheme allows.
pub const ADDRESS_VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a signed upload may take to arrive.
const UPLOAD_VALID: Duration = Duration::from_secs(600);
/// Longest wait for one attempt: 20 MB at 0.5 MB/s and some patience.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Characters of an encoded job id in a key. S3 allows keys of 1024 bytes.
const MAX_ID_CHARS: usize = 900;
/// Characters of a refusal's body that are repeated.
const QUOTED_CHARS: usize = 200;

/// A bucket that is ready to be written to.
#[derive(Debug, Clone)]
pub struct Bucket {
    place: rusty_s3::Bucket,
    credentials: Credentials,
    client: reqwest::Client,
    always: bool,
    first_pause: Duration,
}

/// A bucket that cannot be used, or an image that was not stored.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The configuration does not make an address.
    #[error("BUCKET_ENDPOINT_URL={endpoint} with BUCKET_NAME={name} is no bucket: {reason}")]
    Address {
        /// As configured.
        endpoint: String,
        /// As configured.
        name: String,
        /// Why.
        reason: String,
    },
    /// The store said no.
    #[error("{key}: the store answered {status}: {body}")]
    Refused {
        /// The object's key.
        key: String,
        /// HTTP status.
        status: u16,
        /// Beginning of the answer.
        body: String,
    },
    /// No answer after all attempts.
    #[error("{key}: no answer from the store after {attempts} attempts: {source}")]
    Transport {
        /// The object's key.
        key: String,
        /// Attempts made.
        attempts: u32,
        /// Error of the last attempt, without the address (it carries the signature).
        source: reqwest::Error,
    },
}

impl Bucket {
    /// Checks the configuration; does not talk to the store. Addresses are path style, which every store understands.
    ///
    /// # Errors
    /// [`BucketError::Address`].
    pub fn new(config: &BucketConfig, client: reqwest::Client) -> Result<Self, BucketError> {
        let place = rusty_s3::Bucket::new(
            config.endpoint.clone(),
            UrlStyle::Path,
            config.name.clone(),
            config.region.clone(),
        )
        .map_err(|error| BucketError::Address {
            endpoint: config.endpoint.to_string(),
            name: config.name.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            place,
            credentials: Credentials::new(&config.access_key_id, &config.secret_access_key),
            client,
            always: config.always,
            first_pause: FIRST_PAUSE,
        })
    }

    /// The same bucket with another pause before the first retry; it doubles with each.
    #[must_use]
    pub fn with_first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Whether every result is uploaded, not only those that are too large.
    pub fn always(&self) -> bool {
        self.always
    }

    /// Stores `file` as `{job_id}/{name}.{ext}` and returns an address that works for [`ADDRESS_VALID`].
    ///
    /// # Errors
    /// [`BucketError`] once a retry is pointless or all are used up.
    pub async fn upload(
        &self,
        job_id: &JobId,
        name: &str,
        format: OutputFormat,
        file: Bytes,
    ) -> Result<Url, BucketError> {
        let key = format!("{}/{name}.{}", folder_of(job_id), extension(format));
        let mut attempt = 1;
        loop {
            let outcome = self.put(&key, media_type(format), &file).await;
            let error = match outcome {
                Ok(()) => {
                    return Ok(GetObject::new(&self.place, Some(&self.credentials), &key).sign(ADDRESS_VALID));
                }
                Err(error) => error,
            };
            let hopeless = match &error {
                BucketError::Refused { status, .. } => *status < 500 && !matches!(status, 408 | 429),
                BucketError::Transport { .. } => false,
                BucketError::Address { .. } => true,
            };
            if hopeless || attempt == ATTEMPTS {
                return Err(match error {
                    BucketError::Transport { key, source, .. } => {
                        BucketError::Transport { key, attempts: attempt, source }
                    }
                    other => other,
                });
            }
            tracing::warn!(%error, attempt, "upload failed, trying again");
            // Half to all of the pause, so that uploads that failed together do not come back together.
            let jitter = rand::rng().random_range(0.5..=1.0);
            tokio::time::sleep(self.first_pause.mul_f64(f64::from(1 << (attempt - 1)) * jitter)).await;
            attempt += 1;
        }
    }

    async fn put(&self, key: &str, media_type: &'static str, file: &Bytes) -> Result<(), BucketError> {
        let mut action = PutObject::new(&self.place, Some(&self.credentials), key);
        action.headers_mut().insert("content-type", media_type);
        // Signed anew for each attempt: a signature has a date.
        let url = action.sign(UPLOAD_VALID);
        let transport = |source: reqwest::Error| BucketError::Transport {
            key: key.to_owned(),
            attempts: 1,
            source: source.without_url(),
        };
        let response = self
            .client
            .put(url)
            .header("content-type", media_type)
            .timeout(ATTEMPT_TIMEOUT)
            .body(file.clone())
            .send()
            .await
            .map_err(transport)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = response.text().await.unwrap_or_default().chars().take(QUOTED_CHARS).collect();
        Err(BucketError::Refused { key: key.to_owned(), status: status.as_u16(), body })
    }
}

/// A job id as one folder: whatever else than letters, digits, `-` and `_` it contains is percent-encoded, so that no
/// id can leave its folder (`..`, `/`) or collide with another's.
fn folder_of(job_id: &JobId) -> String {
    let mut folder = String::new();
    for byte in job_id.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            folder.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(folder, "%{byte:02X}");
        }
    }
    if folder.len() > MAX_ID_CHARS {
        // Too long for a key: keep what a person recognises and make it unique.
        folder.truncate(MAX_ID_CHARS / 2);
        folder = format!("{folder}~{}", uuid::Uuid::new_v4());
    }
    folder
}

//! What all requests to the endpoint share: client, URLs, headers, and how an answer is judged.
//!
//! Knows no job's meaning. Called by the take, the stop channel, the heartbeat and [`crate::sink::runpod`].

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, InvalidHeaderValue,
    RETRY_AFTER, USER_AGENT,
};
use reqwest::{Client, RequestBuilder, Response};

use super::PROTOCOL_VERSION;
use super::urls::{UrlError, Urls};
use crate::config::RunPodConfig;
use crate::job::JobId;

/// Why the endpoint cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A URL template is unusable.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The key cannot travel in a header.
    #[error("{variable} contains characters that no HTTP header may carry")]
    Header {
        /// Name of the variable.
        variable: &'static str,
        /// The library's words.
        #[source]
        source: InvalidHeaderValue,
    },
}

/// One RunPod endpoint, seen by one worker.
pub struct Endpoint {
    client: Client,
    headers: HeaderMap,
    urls: Urls,
    hostname: String,
    worker: String,
    pings: bool,
}

impl Endpoint {
    /// Checks the configuration; sends nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(config: &RunPodConfig, client: Client) -> Result<Self, StartError> {
        // As the SDK: without a pod id the worker is anonymous, but takes work all the same.
        let worker_id = config.pod_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Ok(Self {
            headers: headers(config)?,
            urls: Urls::new(config, &worker_id)?,
            client,
            hostname: config.pod_hostname.clone(),
            worker: config.pod_id.clone().unwrap_or_else(|| "unknown".to_owned()),
            pings: config.api_key.is_some() && config.pod_id.is_some() && config.ping.is_some(),
        })
    }

    /// The endpoint's URLs.
    pub fn urls(&self) -> &Urls {
        &self.urls
    }

    /// `RUNPOD_POD_HOSTNAME` or `unknown`.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// `RUNPOD_POD_ID` or `unknown`, as error reports name it.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Whether heartbeats are possible: the platform expects them from workers with a key, a name and a URL.
    pub fn pings(&self) -> bool {
        self.pings
    }

    /// A long poll. The content type of a body that is not there is the SDK's.
    pub fn poll(&self, url: &str) -> RequestBuilder {
        self.client
            .get(url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }

    /// A heartbeat.
    pub fn ping(&self, url: &str) -> RequestBuilder {
        self.client.get(url).headers(self.headers.clone())
    }

    /// Progress or a result: JSON under the form content type, with a header named `charset`, as the SDK posts it.
    pub fn post(&self, url: &str, job: &JobId, body: Bytes) -> RequestBuilder {
        let request = self
            .client
            .post(url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .header("charset", HeaderValue::from_static("utf-8"));
        // `JobId` admits no control characters, the only ones that a header value cannot carry.
        match HeaderValue::from_bytes(job.as_str().as_bytes()) {
            Ok(id) => request.header("x-request-id", id),
            Err(_) => request,
        }
        .body(body)
    }
}

fn headers(config: &RunPodConfig) -> Result<HeaderMap, StartError> {
    let value = |variable, text: &str| {
        HeaderValue::from_bytes(text.as_bytes()).map_err(|source| StartError::Header { variable, source })
    };
    let mut headers = HeaderMap::new();
    if let Some(key) = &config.api_key {
        let mut key = value("RUNPOD_AI_API_KEY", key)?;
        key.set_sensitive(true);
        headers.insert(AUTHORIZATION, key);
    }
    headers
        .insert(USER_AGENT, value("RUNPOD_UA_INTEGRATION", &user_agent(config.ua_integration.as_deref()))?);
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // The SDK offers gzip and deflate; nothing here unpacks them, and base64 images would not shrink.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// The SDK's form, `name/version (system release; machine) …`, under the worker's own name.
fn user_agent(integration: Option<&str>) -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut agent = format!(
        "Marquee/{} (Linux {}; {}) RunPod-Compatible/{PROTOCOL_VERSION}",
        env!("CARGO_PKG_VERSION"),
        release.trim(),
        std::env::consts::ARCH
    );
    if let Some(integration) = integration {
        agent.push_str(" Integration/");
        agent.push_str(integration);
    }
    agent
}

/// `Retry-After`: seconds or a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date in the past asks for no wait.
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke.
    #[error("{}", describe(.0))]
    Broken(reqwest::Error),
    /// More than the cap.
    #[error("the body exceeds {0} bytes")]
    TooLarge(usize),
}

/// The whole body, if it has at most `cap` bytes.
pub async fn read_body(mut response: Response, cap: usize) -> Result<Bytes, BodyError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > cap as u64 {
        return Err(BodyError::TooLarge(cap));
    }
    let mut body = BytesMut::with_capacity(announced as usize);
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > cap {
            return Err(BodyError::TooLarge(cap));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The beginning of an error response's body, for a log line. Bounded in size and time.
pub async fn excerpt(response: Response) -> String {
    const CAP: usize = 64 << 10;
    let read = tokio::time::timeout(Duration::from_secs(2), read_body(response, CAP));
    match read.await {
        Ok(Ok(body)) => shorten(&String::from_utf8_lossy(&body)),
        _ => String::new(),
    }
}

/// At most 300 characters of `text`.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}… ({} bytes)", text.get(..at).unwrap_or_default(), text.len()),
        None => text.to_owned(),
    }
}

/// The error with its causes and without its URL, whose query can carry a token.
pub fn describe(error: &reqwest::Error) -> String {
    let mut words = match (error.is_connect(), error.is_timeout()) {
        (true, _) => "cannot connect".to_owned(),
        (_, true) => "timed out".to_owned(),
        _ => "the request failed".to_owned(),
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        words.push_str(": ");
        words.push_str(&inner.to_string());
        cause = inner.source();
    }
    words
}

//! Marquee's own variables.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::reader::Reader;
use crate::input::plan::AutoUnload;
use crate::memory::budget::{self, Limit};

/// How jobs are run and delivered.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// `MARQUEE_CONCURRENCY`, 1..=64, default 1: jobs held at once. The engine runs one at a time; more than one lets
    /// decoding, encoding and posting overlap with it.
    pub concurrency: usize,
    /// `MARQUEE_JOB_TIMEOUT_S`, seconds, default 600 (the platform's default execution timeout).
    pub job_timeout: Duration,
    /// `MARQUEE_HANG_GRACE_S`, seconds, default 30: how long the engine may take to notice a stop before it counts as hung.
    pub hang_grace: Duration,
    /// `MARQUEE_SHUTDOWN_GRACE_S`, seconds, default 8 (container engines kill after 10): from SIGTERM to the last byte.
    pub shutdown_grace: Duration,
    /// `MARQUEE_RESULT_BUDGET_S`, seconds, default 120: how long delivery of a result is retried.
    pub result_budget: Duration,
    /// `MARQUEE_PROGRESS_INTERVAL_MS`, default 500: least time between two progress reports of a job.
    pub progress_interval: Duration,
    /// `MARQUEE_STATISTICS_FILE`, default `marquee/statistics.json` in the user's cache folder: run times for the ETA.
    pub statistics_file: Option<PathBuf>,
    /// `MARQUEE_REFRESH_AFTER_JOBS`, default 0 (never): ask the platform for a fresh worker after so many jobs.
    pub refresh_after_jobs: u64,
    /// `MARQUEE_MAX_RESULT_BYTES`: replaces the platform's limits (10 MB queued, 20 MB waiting) as the largest body posted.
    pub max_result_bytes: Option<u64>,
}

/// Pictures, fonts, memory policy.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `FONT_DIRS`, colon-separated folders searched before the system's fonts.
    pub font_dirs: Vec<PathBuf>,
    /// `TEST_MODE_STEP_MS`, default 0: least duration of one denoise step in test mode.
    pub test_mode_step: Duration,
    /// `AUTO_UNLOAD_DEFAULT`, `true`, `false` or `auto`, default true.
    pub auto_unload_default: AutoUnload,
    /// `AUTO_UNLOAD_THRESHOLD`, 0.1..=1, default 0.9: share of the budget above which `auto` evicts.
    pub auto_unload_threshold: f64,
    /// `GPU_BUDGET`: most memory that the card may give to weights, computing and the driver's context together; a size
    /// (`22GiB`), a share of the card (`80%`), or `off` for no plan at all. Default: what is free when the engine starts.
    pub gpu_budget: Option<Limit>,
    /// `HOST_BUDGET`: most main memory for copies of weights, likewise. Default: half of what is available at the start.
    pub host_budget: Option<Limit>,
    /// `HOST_PACKING`, `on` or `off`: whether copies of bf16 weights are packed, without loss. Default: on for a card, off
    /// where there is no bus to spare.
    pub host_packing: Option<bool>,
    /// `MARQUEE_MAX_IMAGE_BYTES`, default 20 MiB: largest decoded-from-base64 file per image.
    pub max_image_bytes: usize,
    /// `MARQUEE_MAX_IMAGE_PIXELS`, default 50 million: largest width times height, read from the header.
    pub max_image_pixels: u64,
    /// `MARQUEE_MAX_PROMPT_CHARS`, default 10 000: longest text field.
    pub max_prompt_chars: usize,
}

/// An S3-compatible bucket for results that would not fit through the platform.
#[derive(Clone)]
pub struct BucketConfig {
    /// `BUCKET_ENDPOINT_URL`: the service's address; a path segment or `BUCKET_NAME` names the bucket.
    pub endpoint: url::Url,
    /// `BUCKET_NAME`; without it, the first path segment of the address.
    pub name: String,
    /// `BUCKET_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `BUCKET_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `BUCKET_REGION`, default `us-east-1`.
    pub region: String,
    /// `BUCKET_ALWAYS`, default false: upload every image, not only results that are too large.
    pub always: bool,
}

impl std::fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays out of logs.
        f.debug_struct("BucketConfig")
            .field("endpoint", &self.endpoint.as_str())
            .field("name", &self.name)
            .field("region", &self.region)
            .field("always", &self.always)
            .finish_non_exhaustive()
    }
}

/// The local HTTP API.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `MARQUEE_API_KEY`: callers must send it as a bearer token.
    pub key: Option<String>,
    /// `MARQUEE_API_QUEUE`, default 100: jobs waiting at most; more are answered 429.
    pub queue: usize,
    /// `MARQUEE_API_BODY_BYTES`, default 32 MiB: largest request body.
    pub body_bytes: usize,
    /// `MARQUEE_API_RESULT_TTL_S`, seconds, default 1800 (as the platform keeps `/run` results).
    pub result_ttl: Duration,
}

#[derive(Deserialize, Default)]
struct RawMarquee {
    concurrency: Option<String>,
    job_timeout_s: Option<String>,
    hang_grace_s: Option<String>,
    shutdown_grace_s: Option<String>,
    result_budget_s: Option<String>,
    progress_interval_ms: Option<String>,
    statistics_file: Option<String>,
    refresh_after_jobs: Option<String>,
    max_result_bytes: Option<String>,
    max_image_bytes: Option<String>,
    max_image_pixels: Option<String>,
    max_prompt_chars: Option<String>,
    api_key: Option<String>,
    api_queue: Option<String>,
    api_body_bytes: Option<String>,
    api_result_ttl_s: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawEngine {
    font_dirs: Option<String>,
    test_mode_step_ms: Option<String>,
    auto_unload_default: Option<String>,
    auto_unload_threshold: Option<String>,
    gpu_budget: Option<String>,
    host_budget: Option<String>,
    host_packing: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawBucket {
    endpoint_url: Option<String>,
    name: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    region: Option<String>,
    always: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawSystem {
    xdg_cache_home: Option<String>,
    home: Option<String>,
}

const DAY_S: f64 = 86_400.0;

impl WorkerConfig {
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Self {
        let raw: RawMarquee = reader.section("MARQUEE_", vars);
        let system: RawSystem = reader.section("", vars);
        let cache = system
            .xdg_cache_home
            .map(PathBuf::from)
            .or_else(|| system.home.map(|home| PathBuf::from(home).join(".cache")));
        Self {
            concurrency: reader.number("MARQUEE_CONCURRENCY", raw.concurrency.as_ref(), 1..=64, 1),
            job_timeout: reader.seconds(
                "MARQUEE_JOB_TIMEOUT_S",
                raw.job_timeout_s.as_ref(),
                0.01..=7.0 * DAY_S,
                600.0,
            ),
            hang_grace: reader.seconds(
                "MARQUEE_HANG_GRACE_S",
                raw.hang_grace_s.as_ref(),
                0.01..=3600.0,
                30.0,
            ),
            shutdown_grace: reader.seconds(
                "MARQUEE_SHUTDOWN_GRACE_S",
                raw.shutdown_grace_s.as_ref(),
                0.0..=3600.0,
                8.0,
            ),
            result_budget: reader.seconds(
                "MARQUEE_RESULT_BUDGET_S",
                raw.result_budget_s.as_ref(),
                1.0..=3600.0,
                120.0,
            ),
            progress_interval: Duration::from_millis(reader.number(
                "MARQUEE_PROGRESS_INTERVAL_MS",
                raw.progress_interval_ms.as_ref(),
                0..=60_000,
                500,
            )),
            statistics_file: raw
                .statistics_file
                .map(PathBuf::from)
                .or_else(|| cache.map(|folder| folder.join("marquee/statistics.json"))),
            refresh_after_jobs: reader.number(
                "MARQUEE_REFRESH_AFTER_JOBS",
                raw.refresh_after_jobs.as_ref(),
                0..=u64::MAX,
                0,
            ),
            max_result_bytes: raw.max_result_bytes.as_ref().map(|_| {
                reader.number(
                    "MARQUEE_MAX_RESULT_BYTES",
                    raw.max_result_bytes.as_ref(),
                    1_000..=1 << 40,
                    10_000_000,
                )
            }),
        }
    }
}

impl EngineConfig {
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Self {
        let raw: RawEngine = reader.section("", vars);
        let caps: RawMarquee = reader.section("MARQUEE_", vars);
        Self {
            font_dirs: raw.font_dirs.map(|dirs| std::env::split_paths(&dirs).collect()).unwrap_or_default(),
            test_mode_step: Duration::from_millis(reader.number(
                "TEST_MODE_STEP_MS",
                raw.test_mode_step_ms.as_ref(),
                0..=600_000,
                0,
            )),
            auto_unload_default: reader.with(
                "AUTO_UNLOAD_DEFAULT",
                raw.auto_unload_default.as_ref(),
                "true, false or auto",
                AutoUnload::Yes,
                |text| match text.to_ascii_lowercase().as_str() {
                    "true" | "1" => Some(AutoUnload::Yes),
                    "false" | "0" => Some(AutoUnload::No),
                    "auto" => Some(AutoUnload::Auto),
                    _ => None,
                },
            ),
            auto_unload_threshold: reader.number(
                "AUTO_UNLOAD_THRESHOLD",
                raw.auto_unload_threshold.as_ref(),
                0.1..=1.0,
                0.9,
            ),
            gpu_budget: limit(reader, "GPU_BUDGET", raw.gpu_budget.as_ref()),
            host_budget: limit(reader, "HOST_BUDGET", raw.host_budget.as_ref()),
            host_packing: reader.with("HOST_PACKING", raw.host_packing.as_ref(), "on or off", None, |text| {
                match text.to_ascii_lowercase().as_str() {
                    "on" => Some(Some(true)),
                    "off" => Some(Some(false)),
                    _ => None,
                }
            }),
            max_image_bytes: reader.number(
                "MARQUEE_MAX_IMAGE_BYTES",
                caps.max_image_bytes.as_ref(),
                1_024..=1 << 30,
                20 << 20,
            ),
            max_image_pixels: reader.number(
                "MARQUEE_MAX_IMAGE_PIXELS",
                caps.max_image_pixels.as_ref(),
                4_096..=1 << 32,
                50_000_000,
            ),
            max_prompt_chars: reader.number(
                "MARQUEE_MAX_PROMPT_CHARS",
                caps.max_prompt_chars.as_ref(),
                1..=10_000_000,
                10_000,
            ),
        }
    }
}

fn limit(reader: &mut Reader, name: &str, raw: Option<&String>) -> Option<Limit> {
    reader.with(name, raw, budget::EXPECTED, None, |text| text.parse().ok().map(Some))
}

impl BucketConfig {
    /// The SDK's three variables, all or none. Its own default for the bucket's name (month and year) surprises
    /// everyone who meets it and is not repeated.
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Option<Self> {
        let raw: RawBucket = reader.section("BUCKET_", vars);
        let always = reader.flag("BUCKET_ALWAYS", raw.always.as_ref(), false);
        let text = raw.endpoint_url?;
        let Ok(mut endpoint) = url::Url::parse(text.trim()) else {
            reader.note(format!("BUCKET_ENDPOINT_URL={text}: expected an absolute URL"));
            return None;
        };
        let from_path =
            endpoint.path_segments().and_then(|mut s| s.next().filter(|s| !s.is_empty()).map(str::to_owned));
        let (Some(access_key_id), Some(secret_access_key), Some(name)) =
            (raw.access_key_id, raw.secret_access_key, raw.name.or(from_path))
        else {
            reader.note(
                "BUCKET_ENDPOINT_URL is set, so BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY and a bucket (BUCKET_NAME, or \
                 the first path segment of the URL) are needed too"
                    .to_owned(),
            );
            return None;
        };
        endpoint.set_path("");
        Some(Self {
            endpoint,
            name,
            access_key_id,
            secret_access_key,
            region: raw.region.unwrap_or_else(|| "us-east-1".to_owned()),
            always,
        })
    }
}

impl ApiConfig {
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Self {
        let raw: RawMarquee = reader.section("MARQUEE_", vars);
        Self {
            queue: reader.number("MARQUEE_API_QUEUE", raw.api_queue.as_ref(), 1..=100_000, 100),
            body_bytes: reader.number(
                "MARQUEE_API_BODY_BYTES",
                raw.api_body_bytes.as_ref(),
                1_024..=1 << 32,
                32 << 20,
            ),
            result_ttl: reader.seconds(
                "MARQUEE_API_RESULT_TTL_S",
                raw.api_result_ttl_s.as_ref(),
                1.0..=DAY_S,
                1800.0,
            ),
            key: raw.api_key,
        }
    }
}

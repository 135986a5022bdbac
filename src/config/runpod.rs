//! The platform's variables, with the meaning that the official SDK gives them.

use std::time::Duration;

use serde::Deserialize;

use super::reader::Reader;

/// What the platform tells its worker. URL templates are kept as sent: `$ID` and `$RUNPOD_POD_ID` may stand anywhere in
/// them, so they must not be parsed before they are substituted.
#[derive(Debug, Clone)]
pub struct RunPodConfig {
    /// `RUNPOD_WEBHOOK_GET_JOB`: template of the job-take URL. Its presence means "worker of an endpoint".
    pub get_job: Option<String>,
    /// `RUNPOD_WEBHOOK_POST_OUTPUT`: template of the job-done URL.
    pub post_output: Option<String>,
    /// `RUNPOD_WEBHOOK_POST_STREAM`: template of the stream URL (read for completeness; this worker does not stream).
    pub post_stream: Option<String>,
    /// `RUNPOD_WEBHOOK_PING`: template of the heartbeat URL.
    pub ping: Option<String>,
    /// `RUNPOD_PING_INTERVAL`, milliseconds, default 10 000, at least 1 000.
    pub ping_interval: Duration,
    /// `RUNPOD_AI_API_KEY`: sent verbatim as `Authorization`.
    pub api_key: Option<String>,
    /// `RUNPOD_POD_ID`: this worker's name; heartbeats need it.
    pub pod_id: Option<String>,
    /// `RUNPOD_POD_HOSTNAME`, default `unknown`: part of error reports.
    pub pod_hostname: String,
    /// `RUNPOD_GPU_TYPE_ID`: stands in URL templates that leave it to the worker to fill in.
    pub gpu_type_id: Option<String>,
    /// `RUNPOD_ENDPOINT_ID`: its presence turns log lines into JSON.
    pub endpoint_id: Option<String>,
    /// `RUNPOD_LOG_LEVEL`, else `RUNPOD_DEBUG_LEVEL`, default INFO.
    pub log_level: LogLevel,
    /// `RUNPOD_REALTIME_PORT`: non-zero serves the local API on all interfaces instead of polling.
    pub realtime_port: u16,
    /// `RUNPOD_REALTIME_CONCURRENCY`, default 1.
    pub realtime_concurrency: usize,
    /// `RUNPOD_UA_INTEGRATION`: appended to the User-Agent.
    pub ua_integration: Option<String>,
    /// Checks before the first take.
    pub fitness: FitnessConfig,
}

/// Fitness checks.
#[derive(Debug, Clone)]
pub struct FitnessConfig {
    /// `RUNPOD_SKIP_AUTO_SYSTEM_CHECKS`.
    pub skip_system: bool,
    /// `RUNPOD_SKIP_GPU_CHECK`.
    pub skip_gpu: bool,
    /// `RUNPOD_MIN_MEMORY_GB`, GiB of host memory, default 4 (the SDK's).
    pub min_memory_gib: f64,
    /// `RUNPOD_MIN_DISK_PERCENT`, default 10.
    pub min_disk_percent: f64,
    /// `RUNPOD_NETWORK_CHECK_TIMEOUT`, seconds. The check (TCP to 8.8.8.8:53) runs only if this is set: hosts without
    /// egress are common and need not be unfit.
    pub network_timeout: Option<Duration>,
}

/// The SDK's log levels, the chattiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// TRACE, NOTSET.
    Trace,
    /// DEBUG.
    Debug,
    /// INFO.
    Info,
    /// WARN.
    Warn,
    /// ERROR.
    Error,
}

impl LogLevel {
    /// Names in any case, as the SDK; numbers as its documentation (the SDK itself crashes on them).
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "NOTSET" | "TRACE" | "0" => Self::Trace,
            "DEBUG" | "1" => Self::Debug,
            "INFO" | "2" => Self::Info,
            "WARN" | "WARNING" | "3" => Self::Warn,
            "ERROR" | "4" => Self::Error,
            _ => return None,
        })
    }
}

#[derive(Deserialize, Default)]
struct Raw {
    webhook_get_job: Option<String>,
    webhook_post_output: Option<String>,
    webhook_post_stream: Option<String>,
    webhook_ping: Option<String>,
    ping_interval: Option<String>,
    ai_api_key: Option<String>,
    pod_id: Option<String>,
    pod_hostname: Option<String>,
    gpu_type_id: Option<String>,
    endpoint_id: Option<String>,
    log_level: Option<String>,
    debug_level: Option<String>,
    realtime_port: Option<String>,
    realtime_concurrency: Option<String>,
    ua_integration: Option<String>,
    skip_auto_system_checks: Option<String>,
    skip_gpu_check: Option<String>,
    min_memory_gb: Option<String>,
    min_disk_percent: Option<String>,
    network_check_timeout: Option<String>,
}

impl RunPodConfig {
    pub(super) fn read(vars: &[(String, String)], reader: &mut Reader) -> Self {
        let raw: Raw = reader.section("RUNPOD_", vars);
        if raw.webhook_get_job.is_some() && raw.webhook_post_output.is_none() {
            reader.note(
                "RUNPOD_WEBHOOK_POST_OUTPUT is missing while RUNPOD_WEBHOOK_GET_JOB is set: results would have nowhere to go"
                    .to_owned(),
            );
        }
        let (level_name, level) = match (&raw.log_level, &raw.debug_level) {
            (None, Some(level)) => ("RUNPOD_DEBUG_LEVEL", Some(level)),
            (level, _) => ("RUNPOD_LOG_LEVEL", level.as_ref()),
        };
        Self {
            log_level: reader.with(
                level_name,
                level,
                "one of TRACE, DEBUG, INFO, WARN, ERROR",
                LogLevel::Info,
                LogLevel::parse,
            ),
            ping_interval: Duration::from_millis(reader.number(
                "RUNPOD_PING_INTERVAL",
                raw.ping_interval.as_ref(),
                1_000..=3_600_000,
                10_000,
            )),
            realtime_port: reader.number("RUNPOD_REALTIME_PORT", raw.realtime_port.as_ref(), 0..=65_535, 0),
            realtime_concurrency: reader.number(
                "RUNPOD_REALTIME_CONCURRENCY",
                raw.realtime_concurrency.as_ref(),
                1..=64,
                1,
            ),
            fitness: FitnessConfig {
                skip_system: reader.flag(
                    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS",
                    raw.skip_auto_system_checks.as_ref(),
                    false,
                ),
                skip_gpu: reader.flag("RUNPOD_SKIP_GPU_CHECK", raw.skip_gpu_check.as_ref(), false),
                min_memory_gib: reader.number(
                    "RUNPOD_MIN_MEMORY_GB",
                    raw.min_memory_gb.as_ref(),
                    0.0..=1e6,
                    4.0,
                ),
                min_disk_percent: reader.number(
                    "RUNPOD_MIN_DISK_PERCENT",
                    raw.min_disk_percent.as_ref(),
                    0.0..=100.0,
                    10.0,
                ),
                network_timeout: raw.network_check_timeout.as_ref().map(|_| {
                    reader.seconds(
                        "RUNPOD_NETWORK_CHECK_TIMEOUT",
                        raw.network_check_timeout.as_ref(),
                        0.1..=600.0,
                        5.0,
                    )
                }),
            },
            get_job: raw.webhook_get_job,
            post_output: raw.webhook_post_output,
            post_stream: raw.webhook_post_stream,
            ping: raw.webhook_ping,
            api_key: raw.ai_api_key,
            pod_id: raw.pod_id,
            pod_hostname: raw.pod_hostname.unwrap_or_else(|| "unknown".to_owned()),
            gpu_type_id: raw.gpu_type_id,
            endpoint_id: raw.endpoint_id,
            ua_integration: raw.ua_integration,
        }
    }
}

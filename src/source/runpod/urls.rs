//! URL templates of the platform. Substituted as plain strings and only then parsed, because a placeholder may stand
//! anywhere, also in the query.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode, utf8_percent_encode};
use url::Url;

use super::PROTOCOL_VERSION;
use crate::config::RunPodConfig;
use crate::job::JobId;

const TAKE: &str = "/job-take/";

/// What yarl (the SDK's URL library) quotes in a path, plus the two delimiters that would end it.
const IN_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'?')
    .add(b'#');

/// What a query value needs quoted besides [`IN_URL`].
const IN_VALUE: &AsciiSet = &IN_URL
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'=')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'@')
    .add(b'\'')
    .add(b'$');

/// A template that is no URL.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The variable is not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It does not become an absolute `http` or `https` URL.
    #[error("{variable}={url}: expected an absolute http(s) URL: {reason}")]
    Invalid {
        /// Name of the variable.
        variable: &'static str,
        /// The URL after substitution, without its query.
        url: String,
        /// The parser's words.
        reason: String,
    },
}

/// The endpoint's URLs, with everything but the job substituted.
#[derive(Debug, Clone)]
pub struct Urls {
    take: String,
    done: String,
    ping: Option<String>,
}

impl Urls {
    /// `worker_id` is `RUNPOD_POD_ID` or whatever stands in for it.
    ///
    /// # Errors
    /// [`UrlError`] if a template is missing or does not become a URL.
    pub fn new(config: &RunPodConfig, worker_id: &str) -> Result<Self, UrlError> {
        let worker = quote(worker_id);
        let gpu = quote(config.gpu_type_id.as_deref().unwrap_or("unknown"));
        // The SDK leaves `$RUNPOD_GPU_TYPE_ID` as it is; entrypoints in the wild expand it themselves.
        let fill =
            |template: &str| template.replace("$RUNPOD_POD_ID", &worker).replace("$RUNPOD_GPU_TYPE_ID", &gpu);
        let take = config.get_job.as_deref().ok_or(UrlError::Missing("RUNPOD_WEBHOOK_GET_JOB"))?;
        let done = config.post_output.as_deref().ok_or(UrlError::Missing("RUNPOD_WEBHOOK_POST_OUTPUT"))?;
        let urls = Self {
            take: fill(take).replace("$ID", &worker),
            done: fill(done),
            // `$ID` stays in the heartbeat's URL, as in the SDK.
            ping: config.ping.as_deref().map(fill),
        };
        check("RUNPOD_WEBHOOK_GET_JOB", &urls.take)?;
        check("RUNPOD_WEBHOOK_POST_OUTPUT", &urls.done)?;
        if let Some(ping) = &urls.ping {
            check("RUNPOD_WEBHOOK_PING", ping)?;
        }
        Ok(urls)
    }

    /// Asks for `want` jobs. The SDK appends with `&` even where there is no query, and servers split on it.
    pub fn take(&self, want: usize, busy: bool) -> String {
        let busy = u8::from(busy);
        if want > 1 {
            let batch = self.take.replace(TAKE, "/job-take-batch/");
            format!("{batch}&batch_size={want}&job_in_progress={busy}")
        } else {
            format!("{}&job_in_progress={busy}", self.take)
        }
    }

    /// The stop channel; `None` if the take URL does not follow the platform's scheme.
    pub fn stop(&self) -> Option<String> {
        self.take.contains(TAKE).then(|| self.take.replace(TAKE, "/job-stop/"))
    }

    /// Where progress and the result of `job` go.
    pub fn done(&self, job: &JobId) -> String {
        format!("{}&isStream=false", self.done.replace("$ID", &quote(job.as_str())))
    }

    /// The heartbeat naming `jobs`; `None` without a ping URL.
    pub fn ping(&self, jobs: &[JobId]) -> Option<String> {
        let ids = jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(",");
        let mut params = vec![("runpod_version", PROTOCOL_VERSION)];
        if !ids.is_empty() {
            params.insert(0, ("job_id", &ids));
        }
        self.ping.as_deref().map(|url| with_params(url, &params))
    }

    /// The heartbeat that says why this worker is unfit; `None` without a ping URL.
    pub fn unhealthy(&self, check: &str, reason: &str) -> Option<String> {
        let params = [
            ("status", "unhealthy"),
            ("check", check),
            ("reason", reason),
            ("runpod_version", PROTOCOL_VERSION),
        ];
        self.ping.as_deref().map(|url| with_params(url, &params))
    }
}

/// `url` as far as it may be logged: a query can carry a token.
pub fn without_query(url: &str) -> &str {
    url.split_once(['?', '&']).map_or(url, |(base, _)| base)
}

/// Heartbeat parameters are joined as Python's `requests` joins them: `?` or `&`, whichever fits.
fn with_params(url: &str, params: &[(&str, &str)]) -> String {
    let mut out = url.to_owned();
    for (name, value) in params {
        let joint = if out.contains('?') { '&' } else { '?' };
        out.push(joint);
        out.push_str(name);
        out.push('=');
        out.extend(utf8_percent_encode(value, IN_VALUE));
    }
    out
}

/// Quotes text for any place in a URL. As yarl: `/` and complete `%XX` escapes stay, a lone `%` becomes `%25`.
fn quote(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices('%') {
        out.extend(percent_encode(bytes.get(rest..at).unwrap_or_default(), IN_URL));
        let escape = bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        out.push_str(if escape { "%" } else { "%25" });
        rest = at + 1;
    }
    out.extend(percent_encode(bytes.get(rest..).unwrap_or_default(), IN_URL));
    Cow::Owned(out)
}

fn check(variable: &'static str, url: &str) -> Result<(), UrlError> {
    let invalid = |reason: String| UrlError::Invalid {
        variable,
        url: without_query(url).chars().take(200).collect(),
        reason,
    };
    let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
    match parsed.scheme() {
        "http" | "https" => Ok(()),
        other => Err(invalid(format!("the scheme is {other}"))),
    }
}

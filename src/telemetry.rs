//! Log lines, in the two formats of the platform's SDK: JSON objects where an endpoint is configured, else
//! `LEVEL   | job | message`. A line names the job whose span it was logged in.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogLevel;

/// Longer messages lose their middle, as the SDK does it: the platform throttles workers that log too much.
const MOST_CHARS: usize = 4096;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The platform collects standard output.
    Stdout,
    /// Programs whose standard output is their result.
    Stderr,
}

/// Installs the process's subscriber. A second call changes nothing.
pub fn init(level: LogLevel, json_lines: bool, destination: Destination) {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // The HTTP crates' own lines help nobody who runs a worker.
    let targets = Targets::new().with_target("marquee", level).with_default(LevelFilter::WARN.min(level));
    let lines = Lines { json_lines, destination };
    // Fails only if a subscriber is there already, which is what a second call means.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}

struct Lines {
    json_lines: bool,
    destination: Destination,
}

/// The id of the job that a span is about.
struct JobOfSpan(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), Some(job)) = (context.span(id), fields.rest.get("id")) {
            let job = job.as_str().map_or_else(|| job.to_string(), str::to_owned);
            span.extensions_mut().insert(JobOfSpan(job));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let job = context
            .event_scope(event)
            .into_iter()
            .flatten()
            .find_map(|span| span.extensions().get::<JobOfSpan>().map(|job| job.0.clone()));
        let line = line(self.json_lines, *event.metadata().level(), job.as_deref(), fields);
        // One write a line, so that lines of several threads never mix. A closed pipe is nobody's failure.
        let _ = match self.destination {
            Destination::Stdout => std::io::stdout().lock().write_all(line.as_bytes()),
            Destination::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
        };
    }
}

fn line(json_lines: bool, level: Level, job: Option<&str>, fields: Fields) -> String {
    let level = if level == Level::TRACE { "TRACE" } else { level.as_str() };
    let mut message = fields.message;
    if json_lines {
        let mut object = Map::new();
        object.insert("requestId".into(), json!(job));
        object.insert("message".into(), json!(shortened(&message)));
        object.insert("level".into(), json!(level));
        object.extend(fields.rest);
        return Value::Object(object).to_string() + "\n";
    }
    for (name, value) in &fields.rest {
        // Writing to a string cannot fail.
        let _ = match value {
            Value::String(text) => write!(message, " {name}={text}"),
            Value::Null => Ok(()),
            other => write!(message, " {name}={other}"),
        };
    }
    let message = shortened(&message);
    match job {
        Some(job) => format!("{level:<7}| {job} | {message}\n"),
        None => format!("{level:<7}| {message}\n"),
    }
}

fn shortened(message: &str) -> String {
    let chars = message.chars().count();
    if chars <= MOST_CHARS {
        return message.to_owned();
    }
    let half = MOST_CHARS / 2;
    let head: String = message.chars().take(half).collect();
    let tail: String = message.chars().skip(chars - half).collect();
    format!("{head}\n...TRUNCATED {} CHARACTERS...\n{tail}", chars - 2 * half)
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.rest.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_line_names_level_job_and_fields() {
        let mut rest = Map::new();
        rest.insert("seconds".into(), json!(1.5));
        let fields = Fields { message: "done".into(), rest };
        assert_eq!(line(false, Level::INFO, Some("job-1"), fields), "INFO   | job-1 | done seconds=1.5\n");
    }

    #[test]
    fn json_line_is_one_object_with_the_platforms_members() {
        let fields = Fields { message: "two\nlines".into(), rest: Map::new() };
        let line = line(true, Level::WARN, None, fields);
        assert_eq!(line, "{\"requestId\":null,\"message\":\"two\\nlines\",\"level\":\"WARN\"}\n");
    }

    #[test]
    fn long_messages_lose_their_middle_and_say_how_much() {
        let text = shortened(&"é".repeat(MOST_CHARS + 10));
        assert!(text.contains("...TRUNCATED 10 CHARACTERS..."), "{}", &text[text.len() / 2 - 80..]);
    }
}

//! `marquee doctor`: looks at what a worker needs on this machine and says what to mend.

use std::path::Path;

use super::Exit;
use crate::config::Config;
use crate::imaging::fonts::FontLibrary;
use crate::source::runpod::{Endpoint, fitness};

/// How serious a finding is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Note,
    Bad,
}

struct Finding {
    level: Level,
    subject: &'static str,
    text: String,
}

/// Prints one line a finding; fails if one of them keeps jobs from running.
pub(super) async fn doctor(config: &Config) -> Exit {
    // The configuration itself was read without a problem, or this would not run.
    let mut findings = vec![Finding {
        level: Level::Ok,
        subject: "configuration",
        text: format!("marquee {}, all variables valid", env!("CARGO_PKG_VERSION")),
    }];
    findings.push(fonts(config));
    findings.push(endpoint(config));
    findings.push(fitness(config).await);
    findings.extend(models(config));
    findings.push(statistics(config));
    findings.push(bucket(config));
    for Finding { level, subject, text } in &findings {
        let mark = match level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Bad => "BAD ",
        };
        println!("{mark}  {subject:<13}  {text}");
    }
    if findings.iter().any(|finding| finding.level == Level::Bad) { Exit::Failed } else { Exit::Ok }
}

fn fonts(config: &Config) -> Finding {
    let library = FontLibrary::new(config.engine.font_dirs.clone());
    let missing: Vec<_> = config.engine.font_dirs.iter().filter(|dir| !dir.is_dir()).collect();
    let count = library.faces().len();
    if let [first, ..] = missing.as_slice() {
        let text =
            format!("FONT_DIRS names {}, which is no folder; make it or leave it out", first.display());
        return Finding { level: Level::Bad, subject: "fonts", text };
    }
    let covers = |sample: &str| library.assign(&[sample], None).is_ok();
    let lacking: Vec<_> = [("Hangul", "한"), ("kana", "か"), ("hanzi", "汉")]
        .into_iter()
        .filter(|(_, sample)| !covers(sample))
        .map(|(script, _)| script)
        .collect();
    if lacking.is_empty() {
        return Finding { level: Level::Ok, subject: "fonts", text: format!("{count} faces") };
    }
    let text = format!(
        "{count} faces, none for {}: such phrases are refused. Install fonts (Debian: fonts-nanum, fonts-noto-cjk) or set \
         FONT_DIRS",
        lacking.join(", ")
    );
    Finding { level: Level::Note, subject: "fonts", text }
}

fn endpoint(config: &Config) -> Finding {
    let subject = "endpoint";
    let Some(url) = &config.runpod.get_job else {
        let text = "RUNPOD_WEBHOOK_GET_JOB is not set: local modes only".to_owned();
        return Finding { level: Level::Note, subject, text };
    };
    let client = match crate::http_client::client() {
        Ok(client) => client,
        Err(error) => return Finding { level: Level::Bad, subject, text: error.to_string() },
    };
    match Endpoint::new(&config.runpod, client) {
        Ok(endpoint) if endpoint.pings() => {
            let address = crate::source::runpod::without_query(url).to_owned();
            Finding { level: Level::Ok, subject, text: address }
        }
        Ok(_) => {
            let text =
                "no heartbeats: set RUNPOD_AI_API_KEY, RUNPOD_POD_ID and RUNPOD_WEBHOOK_PING".to_owned();
            Finding { level: Level::Note, subject, text }
        }
        Err(error) => Finding { level: Level::Bad, subject, text: error.to_string() },
    }
}

async fn fitness(config: &Config) -> Finding {
    let subject = "machine";
    match fitness::check(&config.runpod.fitness).await {
        Ok(()) => {
            let gpu = Path::new("/dev/nvidiactl").exists();
            let text =
                if gpu { "memory, disk and GPU are fit" } else { "memory and disk are fit; no NVIDIA GPU" };
            Finding { level: Level::Ok, subject, text: text.to_owned() }
        }
        Err(failure) => {
            Finding { level: Level::Bad, subject, text: format!("{}: {}", failure.check, failure.reason) }
        }
    }
}

/// Opens the configured checkpoints and checks every tensor's name, shape and place; loads nothing.
#[cfg(feature = "models")]
fn models(config: &Config) -> Vec<Finding> {
    use crate::engine::real::nets::missing;
    use crate::models::checkpoint::Caches;

    let subject = "models";
    let place = super::models::place(&config.models);
    let place = match (place, super::models::quantisation(&config.models)) {
        (Ok((target, dtype)), Ok(None)) => format!("{target}, {dtype:?}"),
        (Ok((target, dtype)), Ok(Some(blocks))) => format!("{target}, {dtype:?}, FLUX's blocks in {blocks}"),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding { level: Level::Bad, subject, text: error.to_string() }];
        }
    };
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    let missing = missing(&config.models, &caches);
    if missing.is_empty() {
        let text = format!("FLUX, SDXL, ControlNet and BiRefNet are complete; {place}");
        return vec![Finding { level: Level::Ok, subject, text }];
    }
    // Test mode needs no models, and a job only those of its steps.
    let note =
        |(variable, error)| Finding { level: Level::Note, subject, text: format!("{variable}: {error}") };
    missing.into_iter().map(note).collect()
}

#[cfg(not(feature = "models"))]
fn models(_: &Config) -> Vec<Finding> {
    let text = "built without nets: jobs need \"test_mode\": true".to_owned();
    vec![Finding { level: Level::Note, subject: "models", text }]
}

fn statistics(config: &Config) -> Finding {
    let subject = "statistics";
    let Some(path) = &config.worker.statistics_file else {
        let text =
            "no HOME and no MARQUEE_STATISTICS_FILE: forecasts start afresh with each process".to_owned();
        return Finding { level: Level::Note, subject, text };
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    match std::fs::create_dir_all(folder).and_then(|()| tempfile_in(folder)) {
        Ok(()) => Finding { level: Level::Ok, subject, text: path.display().to_string() },
        Err(error) => {
            let text = format!("{}: {error}; forecasts start afresh with each process", path.display());
            Finding { level: Level::Note, subject, text }
        }
    }
}

/// Whether a file can be made in `folder`.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&probe, b"probe")?;
    std::fs::remove_file(&probe)
}

fn bucket(config: &Config) -> Finding {
    let text = match &config.bucket {
        Some(bucket) => format!("{} at {}", bucket.name, bucket.endpoint),
        None => "none: a result over the platform's limit loses intermediates, then quality".to_owned(),
    };
    Finding { level: Level::Ok, subject: "bucket", text }
}

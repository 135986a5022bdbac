//! The environment: names, defaults, and every problem at once.

use std::time::Duration;

use marquee::config::{Config, LogLevel};
use marquee::input::plan::AutoUnload;

fn read(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    Config::from_vars(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
        .map_err(|errors| errors.0)
}

#[test]
fn an_empty_environment_is_a_valid_configuration() {
    let config = read(&[]).unwrap();
    assert_eq!(config.runpod.get_job, None);
    assert_eq!(config.runpod.ping_interval, Duration::from_secs(10));
    assert_eq!(config.runpod.log_level, LogLevel::Info);
    assert!((config.runpod.fitness.min_memory_gib - 4.0).abs() < f64::EPSILON);
    assert_eq!(config.runpod.fitness.network_timeout, None);
    assert_eq!(config.worker.concurrency, 1);
    assert_eq!(config.worker.job_timeout, Duration::from_secs(600));
    assert_eq!(config.engine.auto_unload_default, AutoUnload::Yes);
    assert_eq!((config.engine.gpu_budget, config.engine.host_budget), (None, None));
    assert_eq!(config.engine.host_packing, None);
    assert_eq!(config.worker.statistics_file, None);
    assert!(config.bucket.is_none());
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let config = read(&[("RUNPOD_WEBHOOK_GET_JOB", ""), ("MARQUEE_CONCURRENCY", " ")]).unwrap();
    assert_eq!(config.runpod.get_job, None);
    assert_eq!(config.worker.concurrency, 1);
}

#[test]
fn packing_is_on_off_or_up_to_the_device() {
    for (text, expected) in [("on", Some(true)), ("OFF", Some(false)), ("", None)] {
        assert_eq!(read(&[("HOST_PACKING", text)]).unwrap().engine.host_packing, expected);
    }
}

#[test]
fn every_problem_is_reported_at_once_with_name_value_and_expectation() {
    let problems = read(&[
        ("MARQUEE_CONCURRENCY", "0"),
        ("RUNPOD_PING_INTERVAL", "soon"),
        ("AUTO_UNLOAD_DEFAULT", "perhaps"),
        ("GPU_BUDGET", "plenty"),
        ("HOST_BUDGET", "120%"),
        ("HOST_PACKING", "tight"),
        ("RUNPOD_LOG_LEVEL", "LOUD"),
        ("BUCKET_ENDPOINT_URL", "http://127.0.0.1:9000"),
        ("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1/job-take/$ID"),
    ])
    .unwrap_err();
    for expected in [
        "MARQUEE_CONCURRENCY=0: expected a number from 1 to 64",
        "RUNPOD_PING_INTERVAL=soon: expected a number from 1000 to 3600000",
        "AUTO_UNLOAD_DEFAULT=perhaps: expected true, false or auto",
        "GPU_BUDGET=plenty: expected a size such as 22GiB, a share such as 80%, or off",
        "HOST_BUDGET=120%: expected a size such as 22GiB",
        "HOST_PACKING=tight: expected on or off",
        "RUNPOD_LOG_LEVEL=LOUD: expected one of TRACE, DEBUG, INFO, WARN, ERROR",
        "BUCKET_ENDPOINT_URL is set, so",
        "RUNPOD_WEBHOOK_POST_OUTPUT is missing",
    ] {
        assert!(problems.iter().any(|p| p.contains(expected)), "{expected} not in {problems:#?}");
    }
    assert_eq!(problems.len(), 9, "{problems:#?}");
}

#[test]
fn the_documented_log_numbers_work_and_the_older_name_is_second() {
    assert_eq!(read(&[("RUNPOD_LOG_LEVEL", "4")]).unwrap().runpod.log_level, LogLevel::Error);
    assert_eq!(read(&[("RUNPOD_DEBUG_LEVEL", "warn")]).unwrap().runpod.log_level, LogLevel::Warn);
    let both = read(&[("RUNPOD_DEBUG_LEVEL", "warn"), ("RUNPOD_LOG_LEVEL", "error")]).unwrap();
    assert_eq!(both.runpod.log_level, LogLevel::Error);
}

#[test]
fn url_templates_stay_as_they_were_sent() {
    let template = "https://host/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+A100&x=$ID";
    let config = read(&[
        ("RUNPOD_WEBHOOK_GET_JOB", "https://host/job-take/$ID?gpu=x"),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", template),
    ])
    .unwrap();
    assert_eq!(config.runpod.post_output.as_deref(), Some(template));
}

#[test]
fn a_bucket_is_named_by_variable_or_by_path_and_its_secret_is_not_shown() {
    let keys = [("BUCKET_ACCESS_KEY_ID", "id"), ("BUCKET_SECRET_ACCESS_KEY", "hush")];
    let by_path = [&keys[..], &[("BUCKET_ENDPOINT_URL", "https://s3.example/ads")]].concat();
    let bucket = read(&by_path).unwrap().bucket.unwrap();
    assert_eq!((bucket.name.as_str(), bucket.endpoint.as_str()), ("ads", "https://s3.example/"));
    assert!(!format!("{bucket:?}").contains("hush"));
    let by_name =
        [&keys[..], &[("BUCKET_ENDPOINT_URL", "https://s3.example"), ("BUCKET_NAME", "posters")]].concat();
    assert_eq!(read(&by_name).unwrap().bucket.unwrap().name, "posters");
}

#[test]
fn statistics_live_in_the_users_cache_folder_unless_told_otherwise() {
    let path = |pairs| read(pairs).unwrap().worker.statistics_file.map(|p| p.display().to_string());
    assert_eq!(path(&[("HOME", "/home/u")]).as_deref(), Some("/home/u/.cache/marquee/statistics.json"));
    assert_eq!(
        path(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c")]).as_deref(),
        Some("/c/marquee/statistics.json")
    );
    assert_eq!(
        path(&[("HOME", "/home/u"), ("MARQUEE_STATISTICS_FILE", "/s.json")]).as_deref(),
        Some("/s.json")
    );
}

#[test]
fn the_fixed_vae_comes_with_the_base_model_alone() {
    let sdxl = read(&[]).unwrap().models.sdxl;
    assert_eq!(sdxl.vae_of(&sdxl.model), Some("madebyollin/sdxl-vae-fp16-fix"));
    assert_eq!(sdxl.vae_of("/models/fine-tune"), None);
    let told = read(&[("SDXL_VAE", "/models/vae")]).unwrap().models.sdxl;
    assert_eq!(told.vae_of("/models/fine-tune"), Some("/models/vae"));
}

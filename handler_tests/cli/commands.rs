//! `run`, `schema`, `doctor`, `--help`: what people type.

use serde_json::Value;

use super::{finish, marquee};

#[tokio::test]
async fn run_writes_three_pictures_and_an_account_of_them() {
    let home = tempfile::tempdir().unwrap();
    let job = home.path().join("job.json");
    std::fs::write(
        &job,
        r#"{"input": {"text_content": "Sale", "test_mode": true, "seed": 18446744073709551615, "width": 320, "height": 256}}"#,
    )
    .unwrap();
    let mut command = marquee(home.path());
    command.args(["run", "job.json", "--out", "pictures"]);
    let (code, stdout, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stderr}");
    for name in ["step1_result.png", "step2_result.png", "final_result.png"] {
        let picture = image::open(home.path().join("pictures").join(name)).unwrap();
        assert_eq!((picture.width(), picture.height()), (320, 256), "{name}");
        assert!(stdout.contains(name), "{stdout}");
    }
    let result: Value =
        serde_json::from_slice(&std::fs::read(home.path().join("pictures/result.json")).unwrap()).unwrap();
    assert_eq!(result["status"], "completed");
    assert_eq!(result["images"]["final_result"], "final_result.png");
    assert_eq!(result["seed"], u64::MAX);
}

#[tokio::test]
async fn run_takes_the_input_alone_as_well() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("job.json"),
        r#"{"test_mode": true, "width": 256, "height": 256, "output_format": "jpeg"}"#,
    )
    .unwrap();
    let mut command = marquee(home.path());
    command.args(["run", "job.json"]);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(home.path().join("out/final_result.jpg").exists());
    assert!(!home.path().join("out/step2_result.png").exists(), "no phrase, no text asset");
}

#[tokio::test]
async fn run_names_every_mistake_and_exits_with_1() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("job.json"),
        r#"{"input": {"test_mode": true, "width": 255, "text_steps": "many"}}"#,
    )
    .unwrap();
    let mut command = marquee(home.path());
    command.args(["run", "job.json"]);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("$.width") && stderr.contains("$.text_steps"), "{stderr}");
    let result = std::fs::read_to_string(home.path().join("out/result.json")).unwrap();
    assert!(result.contains("invalid_input"), "{result}");
}

#[tokio::test]
async fn a_real_job_without_models_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("job.json"), r#"{"input": {"width": 256, "height": 256}}"#).unwrap();
    let mut command = marquee(home.path());
    command.args(["run", "job.json"]);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 1);
    // With nets the checkpoint is what is missing, without them the nets are.
    let what = if cfg!(feature = "models") { "black-forest-labs/FLUX.1-dev" } else { "test_mode" };
    assert!(stderr.contains("unavailable") && stderr.contains(what), "{stderr}");
}

#[tokio::test]
async fn a_missing_or_broken_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("broken.json"), "{").unwrap();
    for (file, expected) in [("absent.json", "No such file"), ("broken.json", "not JSON")] {
        let mut command = marquee(home.path());
        command.args(["run", file]);
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 1);
        assert!(stderr.contains(file) && stderr.contains(expected), "{stderr}");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("occupied"), "a file").unwrap();
    std::fs::write(home.path().join("job.json"), r#"{"test_mode": true, "width": 256, "height": 256}"#)
        .unwrap();
    let mut command = marquee(home.path());
    command.args(["run", "job.json", "--out", "occupied"]);
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("occupied"), "{stderr}");
}

#[tokio::test]
async fn schema_is_json_schema() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.arg("schema");
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 0);
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    assert!(schema["$schema"].is_string() && schema["properties"]["text_content"].is_object());
}

#[tokio::test]
async fn doctor_finds_a_font_folder_that_is_not_there() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.arg("doctor").env("RUNPOD_MIN_MEMORY_GB", "0").env("RUNPOD_MIN_DISK_PERCENT", "0");
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 0, "{stdout}");
    let mut command = marquee(home.path());
    command.arg("doctor").env("FONT_DIRS", "/nowhere/fonts");
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 1);
    assert!(stdout.contains("BAD") && stdout.contains("/nowhere/fonts"), "{stdout}");
}

#[tokio::test]
async fn a_wrong_configuration_is_reported_whole_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.env("MARQUEE_CONCURRENCY", "many").env("RUNPOD_PING_INTERVAL", "1");
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("MARQUEE_CONCURRENCY") && stderr.contains("RUNPOD_PING_INTERVAL"), "{stderr}");
}

#[tokio::test]
async fn help_documents_the_exit_codes_and_unknown_flags_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.arg("--help");
    let (code, stdout, _) = finish(command).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("Exit codes:"), "{stdout}");
    let mut command = marquee(home.path());
    command.arg("--no-such-flag");
    assert_eq!(finish(command).await.0, 2);
}

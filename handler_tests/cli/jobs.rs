//! Whole jobs on nets through the program: tiny checkpoints, everything else as in production.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{finish, marquee};
use crate::engine_real::{checkpoint, job};

/// The program with tiny models for everything.
fn with_models(home: &Path) -> Command {
    let mut command = marquee(home);
    for (variable, name) in [
        ("FLUX_MODEL", "dev"),
        ("SDXL_MODEL", "sdxl"),
        ("CONTROLNET_MODEL", "controlnet"),
        ("SEGMENTATION_MODEL", "birefnet"),
    ] {
        command.env(variable, checkpoint(name));
    }
    command
}

async fn run(home: &Path, changes: &Value) -> Value {
    std::fs::write(home.join("job.json"), json!({"input": job(changes)}).to_string()).unwrap();
    let mut command = with_models(home);
    command.args(["run", "job.json"]);
    let (code, stdout, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    serde_json::from_slice(&std::fs::read(home.join("out/result.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_whole_job_runs_and_its_pictures_do_not_depend_on_auto_unload() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let pictures = || {
        ["step1_result.png", "step2_result.png", "final_result.png"]
            .map(|name| std::fs::read(home.join("out").join(name)).unwrap())
    };
    let result = run(home, &json!({"composition_strength": 0.1})).await;
    assert_eq!(result["status"], "completed");
    assert!(result["memory"]["peak_bytes"].as_u64().unwrap() > 0, "{}", result["memory"]);
    let merge = &result["timings"]["step3_composite"];
    assert!(merge.to_string().contains("composition"), "{}", result["timings"]);
    let unloaded = pictures();
    run(home, &json!({"composition_strength": 0.1, "auto_unload": false})).await;
    assert!(unloaded == pictures(), "auto_unload changed a picture");
}

#[tokio::test]
async fn a_worker_without_its_models_says_which_variable_to_set() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::write(home.join("job.json"), job(&json!({})).to_string()).unwrap();
    let mut command = with_models(home);
    command.args(["run", "job.json"]).env("CONTROLNET_MODEL", "/nowhere/net");
    let (code, _, stderr) = finish(command).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("CONTROLNET_MODEL") && stderr.contains("/nowhere/net"), "{stderr}");

    let mut command = with_models(home);
    command.arg("doctor").env("SEGMENTATION_MODEL", "/nowhere/net");
    command.env("RUNPOD_MIN_MEMORY_GB", "0").env("RUNPOD_MIN_DISK_PERCENT", "0");
    let (_, stdout, _) = finish(command).await;
    assert!(stdout.contains("SEGMENTATION_MODEL") && !stdout.contains("FLUX_MODEL"), "{stdout}");
}

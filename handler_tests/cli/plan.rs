//! `marquee plan`: published sizes on cards of several sizes.

use std::path::Path;

use serde_json::Value;

use super::{finish, marquee};

const JOB: &str = r#"{"input": {"text_content": "Summer Sale", "bg_prompt": "a table", "seed": 1}}"#;

async fn plan(home: &Path, words: &str) -> (i32, String, String) {
    quantised(home, words, "none").await
}

async fn quantised(home: &Path, words: &str, quantisation: &str) -> (i32, String, String) {
    std::fs::write(home.join("job.json"), JOB).unwrap();
    let mut command = marquee(home);
    command.env("QUANTIZATION", quantisation);
    command.args(["plan", "job.json"]).args(words.split_whitespace());
    finish(command).await
}

async fn json(home: &Path, words: &str) -> Value {
    let (code, stdout, stderr) = plan(home, &format!("{words} --json")).await;
    assert_eq!(code, 0, "{words}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn bytes(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn steps(plan: &Value) -> impl Iterator<Item = &Value> {
    let visits = plan["visits"].as_array().unwrap().iter();
    visits.flat_map(|visit| ["before", "during"].map(|list| visit[list].as_array().unwrap())).flatten()
}

/// Whether some of `model` stays for a later step.
fn visits_keep(plan: &Value, model: &str) -> bool {
    steps(plan).any(|step| step["model"] == model && step["from"] == "device" && step["to"] == "device")
}

/// All moves of a plan, as (model, to, bytes).
fn moves(plan: &Value) -> Vec<(String, String, f64)> {
    steps(plan)
        .filter(|step| step["from"] != step["to"])
        .map(|step| {
            let text = |field: &str| step[field].as_str().unwrap().to_owned();
            (text("model"), text("to"), bytes(&step["bytes"]))
        })
        .collect()
}

#[tokio::test]
async fn a_whole_job_fits_22_gib_and_nothing_is_streamed() {
    let home = tempfile::tempdir().unwrap();
    let plan = json(home.path(), "--gpu-budget 22GiB").await;
    let gib = f64::from(1 << 30);
    assert!(bytes(&plan["budget_bytes"]) < 22.0 * gib, "the context's share is taken off");
    assert!(bytes(&plan["peak_bytes"]) <= bytes(&plan["budget_bytes"]));
    let size = |name: &str| {
        let models = plan["models"].as_array().unwrap();
        bytes(&models.iter().find(|model| model["model"] == name).unwrap()["bytes"]) / 1e9
    };
    // Billions of parameters in 16 bits, as published.
    for (name, expected) in [
        ("FLUX transformer", 17.3),
        ("FLUX conditioner", 6.5),
        ("FLUX T5", 9.53),
        ("SDXL UNet", 5.14),
        ("SDXL ControlNet", 2.5),
        ("SDXL CLIP-G", 1.39),
        ("BiRefNet", 0.44),
    ] {
        assert!((size(name) - expected).abs() < 0.02 * expected, "{name}: {} GB", size(name));
    }
    for visit in plan["visits"].as_array().unwrap() {
        assert_eq!(visit["streaming"], Value::Array(Vec::new()), "{visit}");
        assert!(bytes(&visit["peak_bytes"]) <= bytes(&plan["budget_bytes"]));
    }
    assert_eq!(plan["left_bytes"], 0, "auto_unload is true");
    let uploaded: f64 = moves(&plan).iter().filter(|step| step.1 == "device").map(|step| step.2).sum();
    assert!(visits_keep(&plan, "FLUX transformer"), "what SDXL leaves room for stays for step 3");
    let seconds = &plan["transfer_seconds"];
    let told = bytes(&seconds["before_computing"]) + bytes(&seconds["beside_computing"]);
    assert!((told - uploaded / 55e9).abs() < 1e-6, "{told} s for {uploaded} bytes");
}

#[tokio::test]
async fn smaller_cards_stream_and_the_smallest_refuse_with_the_numbers() {
    let home = tempfile::tempdir().unwrap();
    let streamed = |plan: &Value| {
        let visits = plan["visits"].as_array().unwrap().clone();
        let all = visits.into_iter().flat_map(|visit| visit["streaming"].as_array().unwrap().clone());
        all.filter(|one| one["model"] == "FLUX transformer")
            .map(|one| bytes(&one["bytes_a_run"]))
            .fold(0.0, f64::max)
    };
    let (sixteen, twelve) =
        (json(home.path(), "--gpu-budget 16GiB").await, json(home.path(), "--gpu-budget 12GiB").await);
    assert!(streamed(&sixteen) > 0.0 && streamed(&sixteen) < streamed(&twelve));
    for plan in [&sixteen, &twelve] {
        assert!(bytes(&plan["peak_bytes"]) <= bytes(&plan["budget_bytes"]));
    }
    let (code, _, stderr) = plan(home.path(), "--gpu-budget 3GiB").await;
    assert_eq!(code, 1);
    for expected in ["does not fit", "GiB for computing", "at least"] {
        assert!(stderr.contains(expected), "{expected} in {stderr}");
    }
}

#[tokio::test]
async fn in_8_bits_flux_takes_half_and_streams_where_it_has_to() {
    let home = tempfile::tempdir().unwrap();
    let flux = |plan: &Value| {
        let models = plan["models"].as_array().unwrap();
        let model = models.iter().find(|model| model["model"] == "FLUX transformer").unwrap();
        (bytes(&model["bytes"]), bytes(&model["host_bytes"]))
    };
    let visit = |plan: &Value, label: &str| {
        let visits = plan["visits"].as_array().unwrap();
        visits.iter().find(|visit| visit["label"] == label).unwrap().clone()
    };
    let dense = json(home.path(), "--gpu-budget 16GiB").await;
    let label = "background_generation: denoise";
    for (quantisation, widened) in [("fp8", 0.0), ("int8", 2.0 * 5.0 * 3072.0 * 3072.0)] {
        let (code, stdout, stderr) = quantised(home.path(), "--gpu-budget 16GiB --json", quantisation).await;
        assert_eq!(code, 0, "{stderr}");
        let plan: Value = serde_json::from_str(&stdout).unwrap();
        // 19 double and 38 single blocks of 226.5 and 113.2 million numbers in matrices lose a byte each, and gain 4 a row.
        let (numbers, rows) = (8.606e9, 19.0 * 2.0 * 27_648.0 + 38.0 * 24_576.0);
        let lost = flux(&dense).0 - flux(&plan).0;
        assert!((lost - (numbers - 4.0 * rows)).abs() < 0.001 * numbers, "{lost}");
        assert_eq!(flux(&plan).0.to_bits(), flux(&plan).1.to_bits(), "in main memory likewise");
        let (before, after) = (visit(&dense, label), visit(&plan, label));
        assert_ne!(before["streaming"], Value::Array(Vec::new()));
        assert_eq!(after["streaming"], Value::Array(Vec::new()));
        let grown = bytes(&after["work_bytes"]) - bytes(&before["work_bytes"]);
        assert!((grown - widened).abs() < 1.0, "{grown} more, expected {widened}");
    }
    let (code, _, stderr) = quantised(home.path(), "", "int4").await;
    assert!(code == 1 && stderr.contains("none, fp8 or int8"), "{stderr}");
}

#[tokio::test]
async fn the_first_job_reads_every_model_once() {
    let home = tempfile::tempdir().unwrap();
    let cold = json(home.path(), "--gpu-budget 22GiB --cold").await;
    let mut read: Vec<String> =
        moves(&cold).into_iter().filter(|step| step.1 == "host").map(|step| step.0).collect();
    read.retain(|name| !name.is_empty());
    let freed = json(home.path(), "--gpu-budget 22GiB").await;
    let freed = moves(&freed).iter().filter(|step| step.1 == "host").count();
    assert_eq!(read.len() - freed, 11, "{read:?}");
}

#[tokio::test]
async fn the_table_names_visits_moves_and_sums() {
    let home = tempfile::tempdir().unwrap();
    let (code, stdout, _) = plan(home.path(), "--gpu-budget 22GiB").await;
    assert_eq!(code, 0);
    for expected in [
        "background_generation: denoise",
        "+ FLUX T5 host to card, 8.8",
        "[Step2 models unload]",
        "published sizes: FLUX.1-dev, SDXL base, the canny ControlNet, BiRefNet",
        "at 55 GB/s over the bus",
    ] {
        assert!(stdout.contains(expected), "{expected} in\n{stdout}");
    }
}

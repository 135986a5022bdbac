//! `bench --kernels` and `parity --kernels` through the program, on a machine without a card.

use super::{finish, marquee};

async fn run(words: &str, device: Option<&str>) -> (i32, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = marquee(home.path());
    command.args(words.split_whitespace());
    if let Some(device) = device {
        command.env("DEVICE", device);
    }
    finish(command).await
}

#[tokio::test]
async fn a_benchmark_of_kernels_is_one_document_and_a_line_each() {
    let words = "bench --kernels gelu-erf,embed --model tiny --repeats 1 --warmups 0 --ceiling-memory 50";
    let (code, stdout, stderr) = run(words, None).await;
    assert_eq!(code, 0, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let names: Vec<_> = report["kernels"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["gelu-erf", "embed"]);
    assert_eq!(report["target"], "cpu");
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("GB/s") && stderr.contains("% of memory"), "{stderr}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_as_wrong_arguments() {
    for (words, expected) in [
        ("bench --kernels warp", "layer-norm-modulate"),
        ("parity --kernels warp", "layer-norm-modulate"),
        ("bench --kernels --stage t5", "--stage"),
        ("bench --kernels --width 512", "--width"),
        ("bench --kernels gate --model configured", "random or tiny"),
        ("parity", "<FOLDER>"),
        ("parity goldens --seed 3", "[FOLDER]"),
        ("parity --kernels gate --shapes 0", "--shapes"),
    ] {
        let (code, _, stderr) = run(words, None).await;
        assert_eq!(code, 2, "{words}: {stderr}");
        assert!(stderr.contains(expected), "{words}: {stderr}");
    }
}

#[tokio::test]
async fn without_a_card_there_is_nothing_to_compare() {
    let (code, stdout, stderr) = run("parity --kernels", None).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("DEVICE=cuda"), "{stderr}");
    if !cfg!(feature = "cuda") {
        // As any other command on nets.
        for words in ["parity --kernels", "bench --kernels"] {
            let (code, _, stderr) = run(words, Some("cuda")).await;
            assert_eq!(code, 1);
            assert!(stderr.contains("built for the CPU only"), "{stderr}");
        }
    }
}

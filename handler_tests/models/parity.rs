//! The project's own goldens, through the same code as `marquee parity`.

use std::path::{Path, PathBuf};

use candle_core::Device;
use marquee::models::parity;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens").join(name)
}

#[test]
fn every_stage_equals_the_original() {
    let table = parity::run(&goldens("stages"), &Device::Cpu).unwrap();
    println!("{table}");
    assert!(table.passed(), "{table}");
}

#[test]
fn every_pipeline_equals_diffusers_step_by_step() {
    let table = parity::run(&goldens("pipelines"), &Device::Cpu).unwrap();
    println!("{table}");
    assert!(table.passed(), "{table}");
}

#[test]
fn every_step_of_a_cut_out_equals_the_original() {
    let table = parity::run(&goldens("birefnet"), &Device::Cpu).unwrap();
    println!("{table}");
    assert!(table.passed(), "{table}");
    assert_eq!(table.rows.len(), 14, "features, logits, layer, pictures, resizes");
}

//! The list of kernels, what it says of their work, and both commands' plumbing, as far as a machine without a card can tell.

#![allow(clippy::float_cmp, reason = "counts, which f64 holds exactly")]

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device};
use marquee::bench::Overrides;
use marquee::bench::kernels::{self, Checks, KernelSettings, Row};
use marquee::models::device::Target;

/// Names without their ending.
fn sources(folder: &str, ending: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda").join(folder);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = files.filter(|path| path.extension().is_some_and(|found| found == ending));
    named.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn row(name: &str, shape: &str) -> Row {
    let kernel = kernels::all().find(|kernel| kernel.name == name).unwrap();
    kernel.rows().into_iter().find(|row| row.case.shape() == shape).unwrap()
}

#[test]
fn every_source_of_kernels_is_in_the_table_and_no_other() {
    let families: BTreeSet<String> = kernels::all().map(|kernel| kernel.family.to_owned()).collect();
    let kernels = sources("kernels", "cu");
    let missing: Vec<_> = kernels.difference(&families).collect();
    assert!(missing.is_empty(), "{missing:?} have no entry in src/bench/kernels/families");
    let known: BTreeSet<String> = kernels.union(&sources("shim", "cpp")).cloned().collect();
    let stale: Vec<_> = families.difference(&known).collect();
    assert!(stale.is_empty(), "no source is called {stale:?}");
    for shim in ["attention_cudnn", "attention_eight", "conv", "linear"] {
        assert!(families.contains(shim), "{shim}");
    }
}

#[test]
fn names_differ_and_every_row_is_in_a_format_that_its_kernel_takes() {
    let names: BTreeSet<&str> = kernels::all().map(|kernel| kernel.name).collect();
    assert_eq!(names.len(), kernels::all().count());
    for kernel in kernels::all() {
        for row in kernel.rows() {
            assert!(kernel.dtypes.contains(&row.dtype), "{} {}", kernel.name, row.case.shape());
            assert!(row.case.bytes(row.dtype) > 0.0);
        }
    }
}

#[test]
fn bytes_and_operations_are_those_that_one_works_out_by_hand() {
    // Three rows of 3072 for each token, the modulation twice.
    let row_of = row("layer-norm-modulate", "(1, 4608, 3072)");
    assert_eq!(row_of.case.bytes(DType::BF16), 2.0 * (2.0 * 4608.0 * 3072.0 + 2.0 * 3072.0));
    assert_eq!(row_of.case.flops(), 0.0);
    let qkv = row("linear", "(1, 4608, 3072) to 9216");
    assert_eq!(qkv.case.flops(), 2.0 * 4608.0 * 3072.0 * 9216.0);
    let numbers = 4608.0 * 3072.0 + 3072.0 * 9216.0 + 9216.0 + 4608.0 * 9216.0;
    assert_eq!(qkv.case.bytes(DType::BF16), 2.0 * numbers);
    let attention = row("attention", "(1, 24, 4608, 128)");
    assert_eq!(attention.case.flops(), 4.0 * 24.0 * 4608.0 * 4608.0 * 128.0);
    assert_eq!(attention.case.bytes(DType::BF16), 2.0 * 4.0 * 4608.0 * 3072.0);
    let conv = row("conv", "(1, 256, 1024, 1024) to 128, 3 x 3");
    assert_eq!(conv.case.flops(), 2.0 * 1024.0 * 1024.0 * 128.0 * 256.0 * 9.0);
    // q and k come and go, v stays; weights in 16 bits, angles in 32.
    let rope = row("rms-norm-rope", "(1, 4608, 9216), 24 heads, 512 words");
    let expected = 2.0 * 2.0 * 2.0 * 4608.0 * 3072.0 + 2.0 * 4.0 * 128.0 + 4.0 * 2.0 * 4608.0 * 64.0;
    assert_eq!(rope.case.bytes(DType::BF16), expected);
    // Of the table only the rows that are asked for.
    assert_eq!(
        row("embed", "512 of (32128, 4096)").case.bytes(DType::BF16),
        512.0 * (2.0 * 2.0 * 4096.0 + 4.0)
    );
    // A byte, a scale a row, two bytes.
    let widened = row("widen-int8", "(9216, 3072)");
    assert_eq!(widened.case.bytes(DType::BF16), 9216.0 * (3.0 * 3072.0 + 4.0));
    let eight = row("quantise", "(1, 4608, 3072)");
    assert_eq!(eight.case.bytes(DType::BF16), 4608.0 * (3.0 * 3072.0 + 4.0));
}

#[test]
fn what_a_case_says_it_writes_is_what_it_writes() {
    for kernel in kernels::all() {
        // These read or write a part of their tensors, something that is made of them, or something in between.
        let others = [
            "rms-norm-rope",
            "embed",
            "relative-bias",
            "linear-e4m3",
            "linear-int8",
            "widen-int8",
            "bytes-to-unit",
            "unpack",
            "sum-beside",
            "quantise-beside",
            "attention-e4m3",
        ];
        if others.contains(&kernel.name) {
            continue;
        }
        let dtype = *kernel.dtypes.first().unwrap();
        let case = kernel.random(3);
        let inputs = case.inputs(3, dtype, &Device::Cpu).unwrap();
        let outputs = case.on(inputs.clone()).unwrap()().unwrap();
        let bytes = |tensor: &candle_core::Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let moved: usize = inputs.iter().chain(&outputs).map(bytes).sum();
        assert_eq!(case.bytes(dtype), moved as f64, "{} {}", kernel.name, case.shape());
    }
}

#[test]
fn the_twins_pass_against_themselves_in_f32_in_every_format() {
    let checks = Checks { filters: Vec::new(), seed: 1, shapes: 8 };
    let mut lines = Vec::new();
    let passed = kernels::check(&checks, &Device::Cpu, &mut |checked| {
        println!("{checked}");
        lines.push((checked.name, checked.compared, checked.worst.len()));
    });
    assert!(passed);
    assert_eq!(lines.len(), kernels::all().count());
    for (kernel, (name, compared, worst)) in kernels::all().zip(lines) {
        assert_eq!((name, compared, worst), (kernel.name, 8 * kernel.dtypes.len(), kernel.dtypes.len()));
    }
}

#[test]
fn a_seed_gives_the_same_shape_again_and_seeds_differ() {
    for kernel in kernels::all() {
        let shapes: BTreeSet<String> = (0..8).map(|seed| kernel.random(seed).shape().to_owned()).collect();
        assert!(shapes.len() > 6, "{}: {shapes:?}", kernel.name);
        assert_eq!(kernel.random(5).shape(), kernel.random(5).shape());
    }
}

#[test]
fn a_distance_is_a_share_of_the_largest_and_no_number_is_infinitely_far() {
    assert!((kernels::apart(&[1.0, -4.5], &[1.0, -4.0]) - 0.125).abs() < 1e-12);
    assert_eq!(kernels::apart(&[0.0], &[0.0]), 0.0);
    assert_eq!(kernels::apart(&[f32::NAN], &[1.0]), f64::INFINITY);
    assert_eq!(kernels::apart(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]), 0.0);
    assert_eq!(kernels::apart(&[f32::INFINITY], &[1.0]), f64::INFINITY);
    assert!(kernels::apart(&[1.0], &[0.0]) > 1e9);
}

#[test]
fn small_shapes_are_timed_on_a_cpu() {
    let settings = KernelSettings {
        target: Target::Cpu,
        filters: Vec::new(),
        dtype: None,
        size: marquee::bench::Size::Tiny,
        repeats: 2,
        warmups: 0,
        seed: 7,
        overrides: Overrides { teraflops: Some(1.0), gigabytes: Some(100.0) },
    };
    let mut seen = 0;
    let report = kernels::run(&settings, &mut |_| seen += 1).unwrap();
    assert!(report.complete());
    assert_eq!((report.kernels.len(), seen), (kernels::all().count(), kernels::all().count()));
    let report = serde_json::to_value(&report).unwrap();
    let rows = report["kernels"].as_array().unwrap();
    for row in rows {
        for field in ["median_us", "gigabytes_per_second", "percent_of_ceiling", "host_us", "bytes"] {
            assert!(row[field].as_f64().is_some_and(|number| number >= 0.0), "{field} in {row:#}");
        }
        assert_eq!((row["laps"].as_u64(), row["launch_bound"].as_bool()), (Some(2), Some(false)));
        assert!(["memory", "compute"].contains(&row["bound"].as_str().unwrap()));
    }
    let linear = rows.iter().find(|row| row["name"] == "linear").unwrap();
    assert_eq!((&linear["family"], &linear["dtype"]), (&"linear".into(), &"f32".into()));
    assert!(linear["teraflops_per_second"].is_number());
}

#[test]
fn a_format_that_a_kernel_does_not_take_leaves_it_out() {
    let settings = KernelSettings {
        target: Target::Cpu,
        filters: vec!["window-attention".to_owned(), "silu".to_owned()],
        dtype: Some(DType::F32),
        size: marquee::bench::Size::Tiny,
        repeats: 1,
        warmups: 0,
        seed: 0,
        overrides: Overrides::default(),
    };
    let report = kernels::run(&settings, &mut |_| ()).unwrap();
    let names: Vec<&str> = report.kernels.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, ["silu", "group-norm-silu", "shifted-group-norm-silu"]);
}

#[test]
fn filters_name_kernels_or_sources() {
    assert!(kernels::filter("norm").is_ok() && kernels::filter("deform_conv").is_ok());
    let problem = kernels::filter("warp").unwrap_err();
    assert!(problem.contains("layer-norm-modulate") && problem.contains("window-attention"), "{problem}");
    let softmax: Vec<&str> = kernels::meant_by(&["softmax".to_owned()]).map(|kernel| kernel.name).collect();
    assert_eq!(softmax, ["attention-wide"]);
}

//! Copies in main memory: made beside the computing, within their budget, and never waited for where files will do.

use std::cell::Cell;

use marquee::input::plan::AutoUnload::{No, Yes};
use marquee::memory::{Limit, Limits, MemoryError};

use super::bench::{Bench, Reads, visit};

/// Requests for models of 40, 50 and 60 bytes, one after the other.
fn three_times_three_models(bench: &mut Bench) {
    let models = [40, 50, 60].map(|bytes| bench.model(&format!("model of {bytes}"), &[bytes], 0));
    for _ in 0..3 {
        bench.begin(models.iter().map(|model| visit(1, &[model.id()], 0)).collect(), [Yes; 3]);
        for _ in models {
            bench.enter_and_read();
        }
        bench.memory.finish();
    }
}

#[test]
fn they_keep_to_their_budget() {
    let limits = Limits { host: Some(Limit::Bytes(100)), ..Limits::default() };
    let mut bench = Bench::new(100, limits);
    three_times_three_models(&mut bench);
    let counter = bench.counter.lock().unwrap();
    assert!(counter.host_peak <= 100, "{}", counter.host_peak);
    assert!(counter.host > 0, "copies are kept");
}

#[test]
fn they_are_read_once_where_there_is_room() {
    let mut bench = Bench::roomy(100);
    three_times_three_models(&mut bench);
    let reads = bench.counter.lock().unwrap().log.iter().filter(|line| line.starts_with("read")).count();
    assert_eq!(reads, 3);
}

#[test]
fn the_first_use_does_not_wait_for_them() {
    let mut bench = Bench::roomy(100);
    let (first, second) = (bench.model("first", &[10], 0), bench.model("second", &[20], 0));
    let never = bench.model_that_reads(Reads::ForEver, "third", &[30], 0);
    bench.begin([first.id(), second.id(), never.id()].map(|id| visit(1, &[id], 0)).to_vec(), [Yes; 3]);
    for _ in 0..3 {
        bench.memory.enter().unwrap();
    }
    let moves = bench.memory.finish().moves;
    let third = moves.iter().find(|step| step.model == "third").unwrap();
    assert_eq!(serde_json::to_value(third.from).unwrap(), "disk", "{moves:?}");
    // The reader is ended with its memory; if it were not, this test would not return.
}

#[test]
fn they_are_made_first_for_what_is_not_on_the_device_yet() {
    let mut bench = Bench::roomy(100);
    let (first, second) = (bench.model("first", &[10], 0), bench.model("second", &[20], 0));
    bench.begin(vec![visit(1, &[first.id()], 0), visit(1, &[second.id()], 0)], [No; 3]);
    bench.enter_and_read();
    let log = bench.counter.lock().unwrap().log.clone();
    let at = |line: &str| log.iter().position(|found| found == line);
    assert_eq!(at("bring first 0"), Some(0), "{log:?}");
    assert!(at("read second") < at("read first"), "{log:?}");
}

#[test]
fn their_making_stands_aside_for_what_comes_from_files() {
    let mut bench = Bench::roomy(100);
    let never = bench.model_that_reads(Reads::ForEver, "never", &[10], 0);
    let broken = bench.model_that_reads(Reads::Fail, "broken", &[20], 0);
    bench.begin(vec![visit(1, &[never.id()], 0), visit(1, &[broken.id()], 0)], [No; 3]);
    bench.memory.enter().unwrap();
    let counter = std::sync::Arc::clone(&bench.counter);
    let wait_for_more_than = |pieces: u64| {
        while counter.lock().unwrap().read_on <= pieces {
            std::thread::yield_now();
        }
    };
    wait_for_more_than(0);
    bench.memory.enter().unwrap();
    let (beside, then) = {
        let counter = bench.counter.lock().unwrap();
        (counter.read_beside, counter.read_on)
    };
    // What had begun may end.
    assert!(beside.is_some_and(|pieces| pieces <= 1), "{beside:?}");
    wait_for_more_than(then);
}

#[test]
fn one_that_has_to_make_room_while_it_is_made_is_given_up() {
    let limits = Limits { host: Some(Limit::Bytes(100)), ..Limits::default() };
    let mut bench = Bench::new(100, limits);
    let never = bench.model_that_reads(Reads::ForEver, "never", &[60], 0);
    let other = bench.model("other", &[70], 0);
    bench.begin(vec![visit(1, &[never.id()], 0), visit(1, &[other.id()], 0)], [No; 3]);
    bench.memory.enter().unwrap();
    while !bench.counter.lock().unwrap().log.iter().any(|line| line == "read never for ever") {
        std::thread::yield_now();
    }
    bench.enter_and_read();
    let counter = bench.counter.lock().unwrap();
    assert_eq!(counter.host, 70, "{:?}", counter.log);
}

#[test]
fn one_that_cannot_be_made_is_no_reason_to_fail() {
    let mut bench = Bench::roomy(100);
    let broken = bench.model_that_reads(Reads::Fail, "broken", &[60], 0);
    for _ in 0..2 {
        bench.begin(vec![visit(1, &[broken.id()], 0)], [Yes; 3]);
        bench.enter_and_read();
        let moves = bench.memory.finish().moves;
        assert!(moves.iter().all(|step| serde_json::to_value(step.to).unwrap() != "host"), "{moves:?}");
    }
}

#[test]
fn a_request_that_is_stopped_while_files_are_read_says_so() {
    let mut bench = Bench::roomy(100);
    let model = bench.model("model", &[10], 0);
    bench.begin(vec![visit(1, &[model.id()], 0)], [Yes; 3]);
    assert!(matches!(bench.memory.enter_while(&|| false), Err(MemoryError::Stopped)));
    bench.memory.finish();
    assert_eq!(bench.used(), 0);
}

#[test]
fn a_device_that_is_lost_is_told_to_a_request_that_is_stopped_too() {
    let mut bench = Bench::roomy(100);
    let model = bench.model("model", &[10], 0);
    bench.begin(vec![visit(1, &[model.id()], 0)], [Yes; 3]);
    let lost = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")";
    bench.counter.lock().unwrap().fail = Some(lost.to_owned());
    // Stopped once the files are being read.
    let asked = Cell::new(false);
    let entered = bench.memory.enter_while(&|| !asked.replace(true));
    assert!(matches!(entered, Err(MemoryError::DeviceLost { .. })), "{entered:?}");
}

/// Streaming has no other way.
#[test]
fn what_streams_waits_for_its_copy() {
    let mut bench = Bench::roomy(100);
    let large = bench.model("large", &[10, 20, 20, 20, 20, 20, 20, 20, 20], 20);
    bench.begin(vec![visit(1, &[large.id()], 8)], [No; 3]);
    bench.memory.enter().unwrap();
    let log = bench.counter.lock().unwrap().log.clone();
    assert_eq!(log.first().map(String::as_str), Some("read large"), "{log:?}");
}

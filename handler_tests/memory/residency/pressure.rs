//! Budgets, refusals, and memory that somebody else takes.

use marquee::input::plan::AutoUnload::{No, Yes};
use marquee::memory::{Itinerary, Limit, Limits, MemoryError, timetable};

use super::bench::{Bench, RESERVE, visit};

const FULL: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

#[test]
fn a_request_that_cannot_fit_is_refused_with_every_number_before_anything_moves() {
    let mut bench = Bench::roomy(4 << 30);
    let (small, large) = (bench.model("small", &[1 << 30], 0), bench.model("large", &[3 << 30], 0));
    let visits = vec![visit(1, &[small.id()], 0), visit(2, &[small.id(), large.id()], 1 << 29)];
    let refused = bench.memory.begin(Itinerary { visits, rules: timetable([No; 3]) }).unwrap_err();
    let MemoryError::CannotFit(numbers) = &refused else { panic!("{refused}") };
    assert_eq!((numbers.least(), numbers.budget), (9 << 29, 4 << 30));
    let words = refused.to_string();
    for expected in [
        "step 2",
        "small 1.00 GiB",
        "large 3.00 GiB",
        "0.50 GiB for computing",
        "4.50 GiB at least",
        "4.00 GiB",
    ] {
        assert!(words.contains(expected), "{expected} in {words}");
    }
    assert_eq!((bench.used(), bench.counter.lock().unwrap().log.len()), (0, 0));
}

#[test]
fn the_configured_budget_holds_where_the_device_is_larger() {
    let limits =
        Limits { gpu: Some(Limit::Bytes(RESERVE + 100)), host: Some(Limit::Off), ..Limits::default() };
    let mut bench = Bench::new(1000, limits);
    let models = [60, 50, 70].map(|bytes| bench.model(&format!("model of {bytes}"), &[bytes], 0));
    for rules in [[No; 3], [Yes; 3]] {
        bench.begin(models.iter().map(|model| visit(1, &[model.id()], 30)).collect(), rules);
        for _ in models {
            bench.memory.enter().unwrap();
        }
        let report = bench.memory.finish();
        assert_eq!(report.budget_bytes, Some(100));
        assert!(report.peak_bytes <= 100, "{}", report.peak_bytes);
    }
    assert!(bench.counter.lock().unwrap().peak <= 70, "30 of 100 are for computing");
}

#[test]
fn without_a_plan_the_device_runs_full_and_the_next_request_runs() {
    let limits = Limits { gpu: Some(Limit::Off), host: Some(Limit::Off), ..Limits::default() };
    let mut bench = Bench::new(100, limits);
    let (first, second) = (bench.model("first", &[RESERVE], 0), bench.model("second", &[200], 0));
    bench.begin(vec![visit(1, &[first.id()], 0), visit(2, &[second.id()], 0)], [No; 3]);
    bench.memory.enter().unwrap();
    let full = bench.memory.enter().unwrap_err();
    let MemoryError::OutOfMemory(numbers) = &full else { panic!("{full}") };
    assert_eq!((numbers.needed, numbers.allocated, numbers.free), (200, RESERVE, Some(100)));
    assert_eq!(numbers.budget, None);
    assert_eq!(bench.used(), 0, "what ran the device full is in the next request's way");
    let words = full.to_string();
    for expected in ["second comes in", "GPU_BUDGET=off", "CUDA_ERROR_OUT_OF_MEMORY"] {
        assert!(words.contains(expected), "{expected} in {words}");
    }
    bench.memory.finish();
    bench.begin(vec![visit(1, &[first.id()], 0)], [Yes; 3]);
    bench.memory.enter().unwrap();
    bench.memory.lease(first).unwrap();
}

#[test]
fn when_somebody_takes_memory_what_has_no_use_leaves_and_the_visit_goes_on() {
    let mut bench = Bench::roomy(4 * RESERVE);
    let half = 2 * RESERVE;
    let (first, second) = (bench.model("first", &[half], 0), bench.model("second", &[half], 0));
    bench.begin(vec![visit(1, &[first.id()], 0), visit(1, &[second.id()], 0)], [No; 3]);
    bench.counter.lock().unwrap().foreign = RESERVE + RESERVE / 2;
    bench.memory.enter().unwrap();
    assert_eq!(bench.used(), half, "the second could not come early");
    bench.memory.enter().unwrap();
    bench.memory.lease(second).unwrap();
    assert_eq!(bench.used(), half, "the first made room");
    let report = bench.memory.finish();
    assert_eq!((report.visits.len(), report.budget_bytes), (2, Some(2 * RESERVE + RESERVE / 2)));
}

#[test]
fn an_allocation_that_fails_once_is_tried_again_and_one_that_fails_twice_is_an_error() {
    let mut bench = Bench::roomy(100);
    let model = bench.model("model", &[40], 0);
    bench.begin(vec![visit(1, &[model.id()], 0)], [No; 3]);
    bench.counter.lock().unwrap().fail = Some(FULL.to_owned());
    bench.memory.enter().unwrap();
    bench.memory.lease(model).unwrap();
    bench.memory.unload("model", &[model.id()]).unwrap();
    bench.begin(vec![visit(1, &[model.id()], 0)], [No; 3]);
    bench.counter.lock().unwrap().foreign = RESERVE + 80;
    let full = bench.memory.enter().unwrap_err();
    assert!(matches!(full, MemoryError::OutOfMemory(_)), "{full}");
    // The next request is planned with what there is.
    let refused =
        bench.memory.begin(Itinerary { visits: vec![visit(1, &[model.id()], 0)], rules: timetable([No; 3]) });
    assert!(matches!(refused, Err(MemoryError::CannotFit(_))), "{refused:?}");
    bench.counter.lock().unwrap().foreign = 0;
    bench.begin(vec![visit(1, &[model.id()], 0)], [No; 3]);
    bench.memory.enter().unwrap();
}

#[test]
fn a_visit_that_runs_full_while_it_computes_is_entered_anew_once() {
    let mut bench = Bench::roomy(100);
    let (first, second) = (bench.model("first", &[30], 0), bench.model("second", &[50], 0));
    bench.begin(
        vec![visit(1, &[first.id()], 0), visit(1, &[second.id()], 10), visit(1, &[first.id()], 0)],
        [No; 3],
    );
    bench.memory.enter().unwrap();
    bench.memory.enter().unwrap();
    assert_eq!(bench.used(), 80);
    bench.counter.lock().unwrap().foreign = 20;
    bench.memory.again(FULL, &|| true).unwrap();
    assert_eq!(bench.used(), 50, "the first model made room");
    bench.memory.lease(second).unwrap();
    let full = bench.memory.again(FULL, &|| true).unwrap_err();
    assert!(matches!(full, MemoryError::OutOfMemory(_)) && full.to_string().contains(FULL), "{full}");
    bench.memory.enter().unwrap();
    bench.memory.lease(first).unwrap();
    assert!(bench.memory.enter().is_err(), "all visits were made");
}

#[test]
fn a_lost_device_is_called_so() {
    let mut bench = Bench::roomy(100);
    let model = bench.model("model", &[40], 0);
    bench.begin(vec![visit(1, &[model.id()], 0)], [No; 3]);
    bench.counter.lock().unwrap().fail = Some("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"…\")".to_owned());
    let lost = bench.memory.enter().unwrap_err();
    assert!(matches!(lost, MemoryError::DeviceLost { .. }), "{lost}");
}

//! Leases, timetables and what is left for the next request.

use std::sync::mpsc::channel;

use marquee::input::plan::AutoUnload::{Auto, No, Yes};
use marquee::memory::MemoryError;

use super::bench::{Bench, visit};

#[test]
fn a_model_is_leased_in_its_visit_and_nowhere_else() {
    let mut bench = Bench::roomy(100);
    let (first, second) = (bench.model("first", &[10], 0), bench.model("second", &[20], 0));
    assert!(matches!(bench.memory.lease(first), Err(MemoryError::OutOfOrder(_))));
    bench.begin(vec![visit(1, &[first.id()], 0), visit(1, &[second.id()], 0)], [No; 3]);
    assert!(bench.memory.lease(first).is_err(), "before its visit");
    bench.memory.enter().unwrap();
    bench.memory.lease(first).unwrap();
    let refused = bench.memory.lease(second).map(drop).unwrap_err();
    assert!(refused.to_string().contains("second"), "{refused}");
    bench.memory.enter().unwrap();
    assert!(bench.memory.lease(first).is_err(), "after its visit");
    bench.memory.lease(second).unwrap();
    assert!(matches!(bench.memory.enter(), Err(MemoryError::OutOfOrder(_))), "a third visit");
}

#[test]
fn what_is_leased_does_not_leave() {
    let mut bench = Bench::roomy(100);
    let model = bench.model("model", &[10], 0);
    bench.begin(vec![visit(1, &[model.id()], 0)], [Yes; 3]);
    bench.memory.enter().unwrap();
    let lease = bench.memory.lease(model).unwrap();
    bench.memory.unload("by hand", &[model.id()]).unwrap();
    assert_eq!(bench.used(), 10);
    bench.memory.finish();
    assert_eq!(bench.used(), 10, "finish must not free what is in use");
    drop(lease);
    bench.memory.unload("by hand", &[model.id()]).unwrap();
    assert_eq!((bench.used(), bench.memory.allocated()), (0, 0));
}

#[test]
fn the_timetable_empties_the_device_step_by_step() {
    let mut bench = Bench::roomy(1000);
    let (flux, sdxl, birefnet) =
        (bench.model("FLUX", &[100], 0), bench.model("SDXL", &[50], 0), bench.model("BiRefNet", &[7], 0));
    let visits = || {
        vec![
            visit(1, &[flux.id()], 0),
            visit(2, &[sdxl.id()], 0),
            visit(2, &[birefnet.id()], 0),
            visit(3, &[flux.id()], 0),
        ]
    };
    bench.begin(visits(), [Yes; 3]);
    for held in [true, true, true] {
        bench.enter_and_read();
        assert_eq!(bench.used() >= 100, held, "FLUX is or comes back in");
    }
    bench.memory.step_done(1);
    assert!(bench.used() >= 57, "step 2 is not done yet");
    bench.memory.step_done(2);
    // FLUX's new stay is step 3's and has begun.
    assert_eq!(bench.used(), 100);
    bench.memory.enter().unwrap();
    let report = bench.memory.finish();
    assert_eq!(bench.used(), 0);
    assert_eq!(report.visits.len(), 4);
    assert!(report.moves.iter().any(|step| step.model == "SDXL" && step.bytes == 50), "{:?}", report.moves);
}

#[test]
fn a_step_whose_models_may_stay_keeps_them_for_the_next_request() {
    let mut bench = Bench::roomy(1000);
    let (flux, sdxl) = (bench.model("FLUX", &[100], 0), bench.model("SDXL", &[50], 0));
    let visits = || vec![visit(1, &[flux.id()], 0), visit(2, &[sdxl.id()], 0)];
    bench.begin(visits(), [No, Yes, Yes]);
    bench.memory.enter().unwrap();
    bench.memory.enter().unwrap();
    bench.memory.finish();
    assert_eq!(bench.used(), 100);
    bench.done();
    bench.begin(visits(), [No, No, No]);
    bench.memory.enter().unwrap();
    bench.memory.enter().unwrap();
    bench.memory.finish();
    let done = bench.done();
    assert!(!done.iter().any(|line| line.contains("FLUX")), "FLUX was there already: {done:?}");
    assert_eq!(bench.used(), 150);
    // A request that keeps nothing does not keep what others left either.
    bench.begin(vec![visit(1, &[flux.id()], 0)], [Yes; 3]);
    bench.memory.enter().unwrap();
    bench.memory.finish();
    assert_eq!(bench.used(), 0);
}

#[test]
fn a_request_that_ends_early_leaves_nothing_behind() {
    let mut bench = Bench::roomy(1000);
    let (flux, sdxl) = (bench.model("FLUX", &[100], 0), bench.model("SDXL", &[50], 0));
    bench.begin(vec![visit(1, &[flux.id()], 0), visit(2, &[sdxl.id()], 0)], [Yes; 3]);
    bench.memory.enter().unwrap();
    bench.memory.finish();
    assert_eq!(bench.used(), 0, "SDXL may have come early");
    // Without a finish, the next request sees to it.
    bench.begin(vec![visit(1, &[flux.id()], 0)], [Yes; 3]);
    bench.memory.enter().unwrap();
    bench.begin(vec![visit(2, &[sdxl.id()], 0)], [Yes; 3]);
    assert_eq!(bench.used(), 0);
}

#[test]
fn the_next_visits_models_come_in_beside_this_ones_computing() {
    let mut bench = Bench::roomy(100);
    let (first, second) = (bench.model("first", &[60], 0), bench.model("second", &[10, 10, 30], 0));
    let visits = || vec![visit(1, &[first.id()], 15), visit(1, &[second.id()], 0)];
    bench.begin(visits(), [No; 3]);
    bench.enter_and_read();
    bench.enter_and_read();
    bench.memory.finish();
    bench.done();
    // Now both have their host copies.
    bench.memory.unload("all", &[first.id(), second.id()]).unwrap();
    bench.done();
    bench.begin(visits(), [No; 3]);
    bench.memory.enter().unwrap();
    assert_eq!(bench.done(), ["bring first 0", "build first", "bring second 0", "bring second 1"]);
    bench.memory.enter().unwrap();
    assert_eq!(bench.done(), ["free first 0", "bring second 2", "build second"]);
}

#[test]
fn auto_leaves_a_reserve_and_false_fills_the_budget() {
    for (rule, expected) in [(Auto, 50), (No, 95)] {
        let mut bench = Bench::roomy(100);
        let (first, second) = (bench.model("first", &[45], 0), bench.model("second", &[50], 0));
        bench.begin(vec![visit(1, &[first.id()], 0), visit(1, &[second.id()], 0)], [rule; 3]);
        bench.memory.enter().unwrap();
        bench.memory.enter().unwrap();
        bench.memory.finish();
        assert_eq!(bench.used(), expected, "{rule:?}");
    }
}

#[test]
fn a_model_larger_than_the_budget_is_streamed() {
    let mut bench = Bench::roomy(100);
    let large = bench.model("large", &[10, 20, 20, 20, 20, 20, 20, 20, 20], 20);
    bench.begin(vec![visit(1, &[large.id()], 8)], [No; 3]);
    bench.memory.enter().unwrap();
    let done = bench.done();
    assert_eq!(done.last().map(String::as_str), Some("build large streamed"), "{done:?}");
    // 10 around the blocks, two slots and two blocks: 90, and 8 to compute.
    assert_eq!(bench.used(), 90);
    let report = bench.memory.finish();
    assert_eq!(report.visits[0].streamed_bytes, 120);
    assert_eq!(report.peak_bytes, 98);
}

/// Two pictures' activations do not fit into one another's gaps, so under a tight budget nothing freed may stay.
#[test]
fn freed_activations_stay_only_where_there_is_room_for_them_beside_everything() {
    for (total, kept) in [(1000, 60), (170, 60), (169, 0)] {
        let mut bench = Bench::roomy(total);
        let (first, second) = (bench.model("first", &[40], 0), bench.model("second", &[10], 0));
        bench.begin(vec![visit(1, &[first.id()], 60), visit(1, &[second.id()], 20)], [No; 3]);
        assert_eq!(bench.counter.lock().unwrap().kept, kept, "of {total}");
        bench.memory.enter().unwrap();
        bench.memory.finish();
        assert_eq!(bench.counter.lock().unwrap().kept, 0, "between requests");
    }
}

/// Between two steps the processor has work of its own, which need not wait for the driver.
#[test]
fn what_leaves_after_a_step_goes_back_beside_what_follows() {
    let mut bench = Bench::roomy(1000);
    let (sdxl, flux) = (bench.model("SDXL", &[50], 0), bench.model("FLUX", &[100], 0));
    bench.begin(vec![visit(2, &[sdxl.id()], 0), visit(3, &[flux.id()], 0)], [Yes; 3]);
    bench.enter_and_read();
    let (open, gate) = channel();
    {
        let mut counter = bench.counter.lock().unwrap();
        counter.gate = Some(gate);
        counter.settled.clear();
    }
    // Would not return if it waited.
    bench.memory.step_done(2);
    assert!(bench.counter.lock().unwrap().settled.is_empty(), "the driver is not done");
    open.send(()).unwrap();
    bench.memory.unload("all", &[flux.id()]).unwrap();
    assert_eq!(bench.counter.lock().unwrap().settled.len(), 2, "the other thread's wait, then its own");
}

/// Freed memory goes back to the driver at the next synchronisation; what came in before that counts it still as taken.
#[test]
fn what_comes_in_waits_for_freed_memory_that_it_has_no_room_beside() {
    let mut bench = Bench::roomy(150);
    let models =
        [("old", 100), ("first", 40), ("second", 60)].map(|(name, size)| bench.model(name, &[size], 0));
    let [old, first, second] = models.map(marquee::memory::Handle::id);
    bench.begin(vec![visit(1, &[old], 0), visit(1, &[first, second], 0)], [No; 3]);
    bench.memory.enter().unwrap();
    bench.counter.lock().unwrap().settled.clear();
    bench.memory.enter().unwrap();
    // Not held while it is judged: what is dropped later locks it again.
    let (log, settled) = {
        let counter = bench.counter.lock().unwrap();
        (counter.log.clone(), counter.settled.clone())
    };
    let at = |line: &str| log.iter().position(|found| found == line).unwrap();
    let waits = at("free old 0") + 1..=at("bring second 0");
    assert!(settled.iter().any(|at| waits.contains(at)), "100 freed, 40 and 60 do not fit into 150: {log:?}");
}

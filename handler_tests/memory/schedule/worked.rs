//! Cases small enough to follow by hand.

use marquee::input::plan::AutoUnload::{self, Auto, No, Yes};
use marquee::memory::schedule::{
    Action, Itinerary, ModelId, Move, Schedule, Size, Standing, Terms, Visit, plan,
};
use marquee::memory::timetable;

const A: ModelId = ModelId(0);
const B: ModelId = ModelId(1);
const C: ModelId = ModelId(2);

fn size(pieces: &[u64], slot: u64) -> Size {
    Size { name: "model".to_owned(), pieces: pieces.to_vec(), slot, host: pieces.iter().sum() }
}

fn visit(step: u8, models: &[ModelId], work: u64) -> Visit {
    Visit { label: "visit".to_owned(), models: models.to_vec(), work, step }
}

fn planned(
    sizes: &[Size],
    visits: Vec<Visit>,
    rules: [AutoUnload; 3],
    budget: u64,
    prefetch: bool,
) -> Schedule {
    let standing: Vec<Standing> =
        sizes.iter().map(|size| Standing { on_host: true, ..Standing::on_disk(size) }).collect();
    let terms = Terms { budget: Some(budget), host_budget: None, threshold: 0.9, prefetch };
    plan(sizes, &standing, &Itinerary { visits, rules: timetable(rules) }, &terms).unwrap()
}

fn step(model: ModelId, action: Action, pieces: &[usize], bytes: u64) -> Move {
    Move { model, action, pieces: pieces.to_vec(), bytes }
}

#[test]
fn no_more_of_a_large_model_leaves_than_a_small_one_needs() {
    let sizes = [size(&[0, 20, 20, 20, 20], 0), size(&[25], 0)];
    let visits = vec![visit(1, &[A], 10), visit(1, &[B], 5), visit(1, &[A], 10)];
    let plan = planned(&sizes, visits, [No; 3], 100, false);
    assert_eq!(plan.stages[1].before, [step(A, Action::Free, &[4], 20), step(B, Action::Upload, &[0], 25)]);
    assert_eq!(plan.stages[2].before, [step(B, Action::Free, &[0], 25), step(A, Action::Upload, &[4], 20)]);
}

#[test]
fn what_is_used_last_leaves_first() {
    let sizes = [size(&[40], 0), size(&[40], 0), size(&[40], 0)];
    let visits =
        vec![visit(1, &[A], 0), visit(1, &[B], 0), visit(1, &[C], 0), visit(1, &[A], 0), visit(1, &[B], 0)];
    let plan = planned(&sizes, visits, [No; 3], 100, false);
    assert_eq!(plan.stages[2].before[0], step(B, Action::Free, &[0], 40));
    assert!(plan.stages[3].before.is_empty(), "A stayed");
    // The next request will begin with A, so C makes room.
    assert_eq!(plan.stages[4].before[0], step(C, Action::Free, &[0], 40));
}

#[test]
fn a_stay_that_the_timetable_ends_is_renewed_while_something_else_computes() {
    let sizes = [size(&[50], 0), size(&[20], 0)];
    let visits = vec![visit(1, &[A], 0), visit(2, &[B], 0), visit(3, &[A], 0)];
    let plan = planned(&sizes, visits.clone(), [Yes; 3], 100, true);
    assert_eq!(plan.stages[1].during, [step(A, Action::Keep, &[0], 50)]);
    assert_eq!(plan.stages[2].due[0].label, "Step2 models");
    assert!(plan.stages[2].before.is_empty());
    assert_eq!((plan.closing[0].label.as_str(), plan.left), ("Flux Inpainting", 0));
    // Without the copy stream it leaves when it is due and comes back when it is needed.
    let plan = planned(&sizes, visits, [Yes; 3], 100, false);
    let labels: Vec<_> = plan.stages[2].due.iter().map(|departure| departure.label.as_str()).collect();
    assert_eq!(labels, ["Step1 models", "Step2 models"]);
    assert_eq!(plan.stages[2].before, [step(A, Action::Upload, &[0], 50)]);
}

#[test]
fn as_much_of_a_renewed_stay_as_has_room_does_not_move() {
    let sizes = [size(&[20, 20, 20], 0), size(&[50], 0)];
    let visits = vec![visit(1, &[A], 0), visit(2, &[B], 0), visit(3, &[A], 0)];
    let plan = planned(&sizes, visits, [Yes; 3], 100, true);
    assert_eq!(plan.stages[1].before, [step(A, Action::Free, &[2], 20), step(B, Action::Upload, &[0], 50)]);
    assert_eq!(plan.stages[1].during, [step(A, Action::Keep, &[0, 1], 40)]);
    assert_eq!(plan.stages[2].before, [step(A, Action::Upload, &[2], 20)]);
    assert_eq!((plan.closing[0].label.as_str(), plan.left), ("Flux Inpainting", 0));
}

#[test]
fn as_many_blocks_stay_as_fit_and_the_streamed_ones_lie_between_them() {
    let mut pieces = vec![5];
    pieces.extend([10; 12]);
    let sizes = [size(&pieces, 10)];
    // 95 for weights: 5 around the blocks, 20 for two slots, 7 blocks.
    let plan = planned(&sizes, vec![visit(1, &[A], 5)], [No; 3], 100, true);
    let streaming = &plan.stages[0].streaming[0];
    assert_eq!((streaming.pieces.len(), streaming.bytes, plan.peak), (5, 50, 100));
    let gaps: Vec<usize> = streaming.pieces.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (2..=3).contains(gap)), "{:?}", streaming.pieces);
}

#[test]
fn a_host_copy_makes_room_for_the_one_that_is_needed_sooner() {
    let sizes = [size(&[40], 0), size(&[40], 0), size(&[40], 0)];
    let visits = vec![visit(1, &[A], 0), visit(1, &[B], 0), visit(1, &[C], 0), visit(1, &[A], 0)];
    let standing: Vec<Standing> = sizes.iter().map(Standing::on_disk).collect();
    let terms = Terms { budget: Some(40), host_budget: Some(80), threshold: 0.9, prefetch: false };
    let plan = plan(&sizes, &standing, &Itinerary { visits, rules: timetable([Auto; 3]) }, &terms).unwrap();
    let forgotten: Vec<ModelId> = plan
        .stages
        .iter()
        .flat_map(|stage| stage.before.iter().chain(&stage.during))
        .filter(|step| step.action == Action::Forget)
        .map(|step| step.model)
        .collect();
    assert_eq!((forgotten, plan.host_peak), (vec![B], 80));
}

#[test]
fn without_a_budget_everything_stays_and_nothing_is_refused() {
    let sizes = [size(&[u64::MAX / 4], 0), size(&[u64::MAX / 4], 0)];
    let terms = Terms { budget: None, host_budget: None, threshold: 0.9, prefetch: true };
    let standing: Vec<Standing> = sizes.iter().map(Standing::on_disk).collect();
    let itinerary =
        Itinerary { visits: vec![visit(1, &[A], 0), visit(2, &[B], 0)], rules: timetable([No; 3]) };
    let plan = plan(&sizes, &standing, &itinerary, &terms).unwrap();
    assert_eq!(plan.left, u64::MAX / 4 * 2);
}

#[test]
fn what_is_needed_sooner_has_the_room_first() {
    let sizes = [size(&[60], 0), size(&[30, 20], 0), size(&[10], 0)];
    let visits = vec![visit(1, &[A], 0), visit(1, &[B], 0), visit(1, &[C], 0)];
    let plan = planned(&sizes, visits, [No; 3], 100, true);
    assert_eq!(plan.stages[0].during, [step(B, Action::Upload, &[0], 30)]);
}

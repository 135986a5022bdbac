//! What holds for every schedule, whatever the models, visits and budgets.

use marquee::input::plan::AutoUnload;
use marquee::memory::schedule::{
    Action, Itinerary, ModelId, RING_SLOTS, Schedule, Size, Standing, Terms, Visit, plan,
};
use marquee::memory::timetable;
use proptest::collection::vec;
use proptest::prelude::*;

use super::replay::Replay;

#[derive(Debug, Clone)]
struct Case {
    sizes: Vec<Size>,
    standing: Vec<Standing>,
    itinerary: Itinerary,
    terms: Terms,
}

fn unload() -> impl Strategy<Value = AutoUnload> {
    prop_oneof![Just(AutoUnload::Yes), Just(AutoUnload::No), Just(AutoUnload::Auto)]
}

fn rules() -> impl Strategy<Value = [AutoUnload; 3]> {
    prop_oneof![unload().prop_map(|all| [all; 3]), [unload(), unload(), unload()]]
}

prop_compose! {
    fn case()(models in 1..6usize)(
        sizes in vec((vec(1..20u64, 1..6), any::<bool>(), 0..3u64), models),
        held in vec((0..7usize, prop_oneof![9 => Just(None), 1 => (1..6usize).prop_map(Some)], any::<bool>()), models),
        visits in vec((vec(0..models, 1..4), 0..20u64, 1..=3u8), 1..9),
        rules in rules(),
        (budget, host_budget) in (prop_oneof![9 => (20..140u64).prop_map(Some), 1 => Just(None)], proptest::option::of(1..200u64)),
        threshold in 0.5..1.0f64,
        prefetch in any::<bool>(),
    ) -> Case {
        let sizes: Vec<Size> = sizes
            .into_iter()
            .enumerate()
            .map(|(index, (pieces, streams, outside))| Size {
                name: format!("model {index}"),
                slot: if streams { pieces[1..].iter().max().copied().unwrap_or(0) } else { 0 },
                host: pieces.iter().sum::<u64>().saturating_sub(outside),
                pieces,
            })
            .collect();
        let standing = sizes
            .iter()
            .zip(held)
            .map(|(size, (held, gap, on_host))| Standing {
                held: (0..size.pieces.len()).map(|piece| piece < held && Some(piece) != gap).collect(),
                ring: 0,
                on_host,
            })
            .collect();
        let mut steps: Vec<u8> = visits.iter().map(|visit| visit.2).collect();
        steps.sort_unstable();
        let visits = visits
            .into_iter()
            .zip(steps)
            .enumerate()
            .map(|(index, ((mut models, work, _), step))| {
                models.sort_unstable();
                models.dedup();
                Visit { label: format!("visit {index}"), models: models.into_iter().map(ModelId).collect(), work, step }
            })
            .collect();
        Case {
            sizes,
            standing,
            itinerary: Itinerary { visits, rules: timetable(rules) },
            terms: Terms { budget, host_budget, threshold, prefetch },
        }
    }
}

/// A case that was planned.
fn planned(case: &Case) -> Option<Schedule> {
    plan(&case.sizes, &case.standing, &case.itinerary, &case.terms).ok()
}

/// Least bytes of a model while a visit uses it.
fn least(size: &Size) -> u64 {
    let streamed = size.pieces[0] + RING_SLOTS * size.slot;
    if size.slot > 0 { streamed.min(size.bytes()) } else { size.bytes() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_refused_exactly_if_a_visit_cannot_fit_alone(case in case()) {
        let planned = plan(&case.sizes, &case.standing, &case.itinerary, &case.terms);
        let needs = |visit: &Visit| visit.models.iter().map(|id| least(&case.sizes[id.0])).sum::<u64>() + visit.work;
        let first = case.terms.budget.and_then(|budget| case.itinerary.visits.iter().find(|visit| needs(visit) > budget));
        match (planned, first) {
            (Err(refused), Some(visit)) => {
                prop_assert_eq!(refused.least(), needs(visit));
                prop_assert_eq!(&refused.visit, &visit.label);
                prop_assert_eq!(refused.needs.len(), visit.models.len());
            }
            (Ok(_), None) => {}
            (planned, first) => prop_assert!(false, "{planned:?}, but {first:?}"),
        }
    }

    #[test]
    fn models_are_resident_when_their_visit_runs_and_never_above_the_budget(case in case()) {
        let Some(plan) = planned(&case) else { return Ok(()) };
        let budget = case.terms.budget.unwrap_or(u64::MAX);
        let mut replay = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        replay.take_form(&plan);
        replay.host_budget = case.terms.host_budget;
        let mut peak = 0;
        prop_assert_eq!(plan.stages.len(), case.itinerary.visits.len());
        for (visit, stage) in plan.stages.iter().enumerate() {
            for step in stage.due.iter().flat_map(|departure| &departure.moves) {
                prop_assert_eq!(step.action, Action::Free);
                replay.apply(step);
            }
            for step in &stage.before {
                replay.apply(step);
                if step.action == Action::Upload {
                    prop_assert!(replay.bytes() <= budget);
                }
            }
            let work = case.itinerary.visits[visit].work;
            for id in &case.itinerary.visits[visit].models {
                let streaming = stage.streaming.iter().find(|streaming| streaming.model == *id);
                let size = &case.sizes[id.0];
                for (piece, held) in replay.held[id.0].iter().enumerate() {
                    let streamed = streaming.is_some_and(|streaming| streaming.pieces.contains(&piece));
                    prop_assert_ne!(*held, streamed, "piece {} of {:?} in visit {}", piece, id, visit);
                }
                if let Some(streaming) = streaming {
                    prop_assert!(size.slot > 0 && !streaming.pieces.contains(&0) && replay.copies[id.0]);
                    prop_assert_eq!(streaming.slot, size.slot);
                    let bytes: u64 = streaming.pieces.iter().map(|piece| size.pieces[*piece]).sum();
                    prop_assert_eq!(streaming.bytes, bytes);
                }
            }
            prop_assert_eq!(stage.resident, replay.bytes());
            replay.enter(visit);
            let mut highest = replay.bytes() + work;
            for step in &stage.during {
                let used = step.action == Action::Free && replay.needs(visit, step.model.0);
                prop_assert!(!used, "{:?} leaves while visit {} uses it", step, visit);
                replay.apply(step);
                highest = highest.max(replay.bytes() + work);
            }
            prop_assert!(highest <= budget, "{} of {} in visit {}", highest, budget, visit);
            prop_assert_eq!(stage.peak, highest);
            peak = peak.max(highest);
        }
        for step in plan.closing.iter().flat_map(|departure| &departure.moves) {
            replay.apply(step);
        }
        prop_assert_eq!(plan.left, replay.bytes());
        let mut at_start = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        at_start.take_form(&plan);
        let at_start = at_start.bytes();
        prop_assert_eq!(plan.peak, peak.max(at_start));
    }

    #[test]
    fn the_timetable_is_kept(case in case()) {
        let Some(plan) = planned(&case) else { return Ok(()) };
        let mut replay = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        replay.take_form(&plan);
        replay.host_budget = case.terms.host_budget;
        for (visit, stage) in plan.stages.iter().enumerate() {
            for step in stage.due.iter().flat_map(|departure| &departure.moves) {
                prop_assert!(replay.due(step.model.0, visit), "{step:?} leaves before it is due");
                replay.apply(step);
            }
            for model in 0..case.sizes.len() {
                prop_assert!(replay.bytes_of(model) == 0 || !replay.due(model, visit));
            }
            stage.before.iter().for_each(|step| replay.apply(step));
            replay.enter(visit);
            stage.during.iter().for_each(|step| replay.apply(step));
        }
        plan.closing.iter().flat_map(|departure| &departure.moves).for_each(|step| replay.apply(step));
        let end = case.itinerary.visits.len();
        for model in 0..case.sizes.len() {
            prop_assert!(replay.bytes_of(model) == 0 || !replay.due(model, end));
        }
        if case.itinerary.rules.iter().all(|rule| rule.unload == AutoUnload::Yes) {
            prop_assert_eq!(replay.bytes(), 0);
        }
    }

    #[test]
    fn what_leaves_had_to_and_was_used_furthest_in_the_future(case in case()) {
        let Some(plan) = planned(&case) else { return Ok(()) };
        let Some(budget) = case.terms.budget else { return Ok(()) };
        let soft = (budget as f64 * case.terms.threshold) as u64;
        let mut replay = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        replay.take_form(&plan);
        replay.host_budget = case.terms.host_budget;
        // Freed for the coming visit while the last one computed.
        let mut early = Vec::new();
        for (visit, stage) in plan.stages.iter().enumerate() {
            stage.due.iter().flat_map(|departure| &departure.moves).for_each(|step| replay.apply(step));
            let uses: Vec<_> = (0..case.sizes.len()).map(|model| replay.next_use(model, visit)).collect();
            let step = case.itinerary.visits[visit].step;
            let auto = case.itinerary.rules.iter().any(|rule| rule.step == step && rule.unload == AutoUnload::Auto);
            let limit = if auto { soft } else { budget };
            let mut freed: Vec<(usize, usize)> = std::mem::take(&mut early);
            let some_left_early = !freed.is_empty();
            for step in &stage.before {
                // What is to be streamed from now on.
                let odd = plan.stages.iter().any(|stage| stage.streaming.iter().any(|s| s.model == step.model));
                if step.action == Action::Free && !replay.needs(visit, step.model.0) && !(odd && visit == 0) {
                    freed.extend(step.pieces.iter().map(|piece| (step.model.0, *piece)));
                }
                replay.apply(step);
            }
            let total = replay.bytes() + case.itinerary.visits[visit].work;
            // What leaves early is a guess at the whole: something had to leave, though perhaps not quite that.
            let all: u64 = freed.iter().filter(|(model, _)| uses[*model].is_some()).map(|(model, piece)| replay.piece(*model, *piece)).sum();
            prop_assert!(all == 0 || total + all > limit, "{} bytes left visit {} for nothing", all, visit);
            if some_left_early {
                freed.clear();
            }
            for (model, piece) in freed {
                // Pieces leave from the end: only the first of those that left could have stayed.
                let Some(next) = uses[model].filter(|_| piece == replay.first_gap(model)) else { continue };
                let bytes = replay.piece(model, piece);
                prop_assert!(total + bytes > limit, "model {} left visit {} although {} of {} is room", model, visit, bytes, limit.saturating_sub(total));
                // Nothing stays that has no use any more.
                let useless: u64 = (0..case.sizes.len())
                    .filter(|other| !replay.needs(visit, *other) && uses[*other].is_none())
                    .map(|other| replay.bytes_of(other))
                    .sum();
                prop_assert_eq!(useless, 0, "model {} left visit {} before them", model, visit);
                // What is used later than it, or not at all, makes no room for it either.
                let others: u64 = (0..case.sizes.len())
                    .filter(|other| *other != model && !replay.needs(visit, *other))
                    .filter(|other| uses[*other].is_none_or(|use_| use_ > next))
                    .map(|other| replay.bytes_of(other))
                    .sum();
                prop_assert!(total + bytes > limit + others, "model {} left visit {} before {} bytes used later", model, visit, others);
            }
            replay.enter(visit);
            for step in &stage.during {
                let model = step.model.0;
                if step.action == Action::Free && replay.next_use(model, visit + 1).is_some() {
                    early.extend(step.pieces.iter().map(|piece| (model, *piece)));
                }
                replay.apply(step);
            }
        }
    }

    #[test]
    fn nothing_comes_in_without_being_used_before_it_leaves(case in case()) {
        let Some(plan) = planned(&case) else { return Ok(()) };
        let mut replay = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        replay.take_form(&plan);
        replay.host_budget = case.terms.host_budget;
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        for (visit, stage) in plan.stages.iter().enumerate() {
            let early = stage.due.iter().flat_map(|departure| &departure.moves);
            let mut note = |replay: &mut Replay, step: &marquee::memory::schedule::Move| {
                for piece in &step.pieces {
                    let entry = (step.model.0, *piece);
                    match step.action {
                        Action::Upload => waiting.push(entry),
                        Action::Free => assert!(!waiting.contains(&entry), "{step:?} in visit {visit} was never used"),
                        Action::Keep | Action::Read | Action::Forget => {}
                    }
                }
                replay.apply(step);
            };
            early.chain(&stage.before).for_each(|step| note(&mut replay, step));
            waiting.retain(|(model, _)| !replay.needs(visit, *model));
            let mut note = |replay: &mut Replay, step: &marquee::memory::schedule::Move| {
                for piece in &step.pieces {
                    let entry = (step.model.0, *piece);
                    match step.action {
                        Action::Upload => waiting.push(entry),
                        Action::Free => assert!(!waiting.contains(&entry), "{step:?} during visit {visit} was never used"),
                        Action::Keep | Action::Read | Action::Forget => {}
                    }
                }
                replay.apply(step);
            };
            stage.during.iter().for_each(|step| note(&mut replay, step));
        }
        prop_assert!(waiting.is_empty(), "{waiting:?} came for nobody");
    }

    #[test]
    fn host_copies_keep_to_their_budget_as_far_as_streaming_allows(case in case()) {
        let Some(plan) = planned(&case) else { return Ok(()) };
        let budget = case.terms.host_budget.unwrap_or(u64::MAX);
        let mut replay = Replay::new(&case.sizes, &case.standing, &case.itinerary);
        replay.take_form(&plan);
        replay.host_budget = case.terms.host_budget;
        let mut peak = replay.host_bytes();
        for stage in &plan.stages {
            stage.due.iter().flat_map(|departure| &departure.moves).for_each(|step| replay.apply(step));
            let streamed: u64 = stage.streaming.iter().map(|streaming| case.sizes[streaming.model.0].host).sum();
            for step in stage.before.iter().chain(&stage.during) {
                replay.apply(step);
                if step.action == Action::Read {
                    peak = peak.max(replay.host_bytes());
                    prop_assert!(replay.host_bytes() <= budget.max(streamed + step.bytes));
                }
            }
            prop_assert!(replay.host_bytes() <= budget.max(streamed));
        }
        prop_assert_eq!(plan.host_peak, peak);
    }

    #[test]
    fn with_room_for_all_each_model_comes_once_and_none_leaves(mut case in case()) {
        let all: u64 = case.sizes.iter().map(Size::bytes).sum();
        let work = case.itinerary.visits.iter().map(|visit| visit.work).max().unwrap_or(0);
        case.terms.budget = Some(all + work);
        case.itinerary.rules = timetable([AutoUnload::No; 3]);
        let plan = planned(&case).unwrap();
        let moves = plan.stages.iter().flat_map(|stage| stage.before.iter().chain(&stage.during));
        let frees = moves.clone().filter(|step| step.action == Action::Free).count();
        prop_assert_eq!(frees + plan.closing.len(), 0);
        let mut uploaded: Vec<ModelId> = moves.filter(|step| step.action == Action::Upload).map(|step| step.model).collect();
        let count = uploaded.len();
        uploaded.sort_unstable();
        uploaded.dedup();
        prop_assert_eq!(uploaded.len(), count);
        if case.terms.prefetch {
            // All of it arrives while the first visit computes.
            prop_assert!(plan.stages.iter().skip(1).all(|stage| stage.before.is_empty() && stage.during.is_empty()));
        }
    }
}

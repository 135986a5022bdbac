//! The plan for people.

use std::fmt::Write as _;

use super::forecast::Forecast;
use crate::memory::budget::gib;
use crate::memory::schedule::{Action, Departure, Move};

/// One block a visit: what leaves, what comes, what is there, what comes meanwhile.
pub(super) fn table(forecast: &Forecast) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, forecast);
    out
}

fn write(out: &mut String, forecast: &Forecast) -> std::fmt::Result {
    let Forecast { schedule, itinerary, sizes, budget, .. } = forecast;
    match budget {
        Some(budget) => {
            writeln!(out, "{} for weights and computing, the context's share taken off", gib(*budget))?;
        }
        None => writeln!(out, "no budget: nothing is evicted or refused")?,
    }
    if !sizes.assumed.is_empty() {
        writeln!(out, "not at hand, so published sizes: {}", sizes.assumed.join(", "))?;
    }
    for (visit, stage) in itinerary.visits.iter().zip(&schedule.stages) {
        departures(out, forecast, &stage.due)?;
        writeln!(out, "\nstep {}  {}", visit.step, visit.label)?;
        for step in &stage.before {
            line(out, forecast, "  ", step)?;
        }
        for streaming in &stage.streaming {
            let name = sizes.nets.get(streaming.model.0).map_or("?", |size| &size.name);
            let seconds = streaming.bytes as f64 / (forecast.bus * 1e9);
            writeln!(
                out,
                "   ~ {name}: {} of its blocks pass through the card each run, {} in {seconds:.3} s",
                streaming.pieces.len(),
                gib(streaming.bytes),
            )?;
        }
        writeln!(
            out,
            "     weights {}, computing {}, peak {}",
            gib(stage.resident),
            gib(visit.work),
            gib(stage.peak)
        )?;
        for step in &stage.during {
            line(out, forecast, "    meanwhile ", step)?;
        }
    }
    departures(out, forecast, &schedule.closing)?;
    let (waiting, beside) = forecast.transfer_seconds();
    writeln!(
        out,
        "\npeak {}, host copies {}, left on the card {}\ntransfers {waiting:.2} s before and {beside:.2} s beside computing at \
         {} GB/s over the bus and {} GB/s from disk",
        gib(schedule.peak),
        gib(schedule.host_peak),
        gib(schedule.left),
        forecast.bus,
        forecast.disk,
    )
}

fn departures(out: &mut String, forecast: &Forecast, departures: &[Departure]) -> std::fmt::Result {
    for departure in departures {
        writeln!(out, "\n[{} unload]", departure.label)?;
        for step in &departure.moves {
            line(out, forecast, "  ", step)?;
        }
    }
    Ok(())
}

fn line(out: &mut String, forecast: &Forecast, indent: &str, step: &Move) -> std::fmt::Result {
    let (mark, what) = match step.action {
        Action::Read => ('.', "disk to host"),
        Action::Upload => ('+', "host to card"),
        Action::Free => ('-', "off the card"),
        Action::Keep => ('=', "stays for a later step"),
        Action::Forget => ('.', "off the host"),
    };
    let whole =
        forecast.sizes.nets.get(step.model.0).is_some_and(|size| size.pieces.len() == step.pieces.len());
    let part = if whole { "" } else { " (part)" };
    write!(out, "{indent} {mark} {}{part} {what}, {}", forecast.name(step), gib(step.bytes))?;
    match forecast.seconds(step) {
        0.0 => writeln!(out),
        seconds => writeln!(out, ", {seconds:.3} s"),
    }
}

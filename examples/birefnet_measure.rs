//! Runs BiRefNet on a prepared input and leaves features, logits, times and peak memory for a comparison:
//!
//! ```sh
//! cargo run --release --features cuda --example birefnet_measure -- MODEL REQUEST.safetensors RESULT.safetensors
//! ```
//!
//! `REQUEST` holds `x` (1, 3, height, width), in its metadata how many `runs` to time. `RESULT` gets `x1` to `x4` and `logits`; the
//! times are printed as JSON. `DEVICE` and `DTYPE` as everywhere. `scripts/gpu/compare_birefnet.py` calls this.

mod measure;

use marquee::models::birefnet::BiRefNet;
use marquee::models::checkpoint::{Caches, open_birefnet};
use measure::{Clock, Marks, Outcome, Peak, Request, Results, arguments, place};
use serde_json::json;

fn main() -> Outcome<()> {
    let [model, request, result] =
        arguments("birefnet_measure MODEL REQUEST.safetensors RESULT.safetensors")?;
    let (target, dtype) = place()?;
    let mut peak = Peak::start(target);
    let mut clock = Clock::start();
    let device = target.open()?;
    clock.lap("open_device", &device)?;
    Peak::stage(&mut peak, "context");
    let request = Request::read(&request)?;
    let files = open_birefnet(&model, &Caches::default())?;
    let net = BiRefNet::new(&files.config, &files.weights(dtype, &device))?;
    clock.lap("load", &device)?;
    Peak::stage(&mut peak, "load");
    let x = request.tensor("x")?.to_device(&device)?.to_dtype(dtype)?;
    let mut out = Results::default();
    out.insert("logits", net.logits(&x, &mut |_| Ok(()))?);
    clock.lap("first", &device)?;
    let mut marks = Marks::new(&device);
    marks.mark();
    for _ in 0..request.field("runs")? {
        net.logits(&x, &mut |_| Ok(()))?;
        marks.mark();
    }
    Peak::stage(&mut peak, "run");
    let milliseconds = marks.milliseconds;
    for (name, feature) in ["x1", "x2", "x3", "x4"].into_iter().zip(net.features(&x, &mut |_| Ok(()))?) {
        out.insert(name, feature);
    }
    out.write(&result)?;
    let report = json!({
        "device": target.to_string(),
        "dtype": dtype.as_str(),
        "milliseconds": clock.laps(),
        "run_milliseconds": milliseconds,
        "peak_bytes": Peak::stages(peak),
    });
    println!("{report}");
    Ok(())
}

//! `marquee plan FILE`: what will be where when on a card of a given size, without one.
//!
//! The same itinerary and schedule that the engine would carry out, printed.

mod forecast;
mod table;

use std::path::PathBuf;

use candle_core::DType;
use serde_json::Value;

use super::Exit;
use crate::config::Config;
use crate::engine::real::itinerary::{Roster, itinerary, stops};
use crate::engine::real::nets::Dtypes;
use crate::engine::real::sizes;
use crate::input::{self, InputLimits};
use crate::memory::Limit;
use crate::memory::budget::card_room;
use crate::memory::schedule::{self, Standing, Terms};
use crate::models::checkpoint::Caches;
use crate::models::device;
use forecast::Forecast;

/// `marquee plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanOptions {
    /// A JSON file: a job (`{"input": {...}}`) or the input alone.
    pub file: PathBuf,
    /// What the worker may use of the card, its context included: 22GiB, 80%, or off. Default: GPU_BUDGET, else the whole card.
    #[arg(long, value_name = "SIZE")]
    pub gpu_budget: Option<Limit>,
    /// Memory of the card.
    #[arg(long, value_name = "SIZE", default_value = "24GiB")]
    pub gpu_total: Limit,
    /// Main memory for copies of weights. Default: HOST_BUDGET, else as much as there are models.
    #[arg(long, value_name = "SIZE")]
    pub host_budget: Option<Limit>,
    /// GB/s over the bus from page-locked memory (PCIe 5.0 x16: 55, 4.0: 25, 3.0: 12).
    #[arg(long, value_name = "GB/S", default_value_t = 55.0)]
    pub bus: f64,
    /// GB/s from the disk.
    #[arg(long, value_name = "GB/S", default_value_t = 2.0)]
    pub disk: f64,
    /// The first job of a worker: nothing is in main memory yet.
    #[arg(long)]
    pub cold: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints the plan; a request that cannot fit fails with the numbers.
pub(super) fn plan(config: &Config, options: &PlanOptions) -> Exit {
    match forecast(config, options) {
        Ok(forecast) if options.json => {
            println!("{:#}", forecast.json());
            Exit::Ok
        }
        Ok(forecast) => {
            print!("{}", table::table(&forecast));
            Exit::Ok
        }
        Err(problem) => {
            eprintln!("{problem}");
            Exit::Failed
        }
    }
}

fn forecast(config: &Config, options: &PlanOptions) -> Result<Forecast, String> {
    let shown = options.file.display().to_string();
    let text = std::fs::read_to_string(&options.file).map_err(|error| format!("{shown}: {error}"))?;
    let mut job: Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: not JSON: {error}"))?;
    let input = job.get_mut("input").map(Value::take).unwrap_or(job);
    // The seed moves nothing, and what would be there without `test_mode` is what is asked.
    let plan = input::plan(&input, &InputLimits::from(&config.engine), || 0)
        .map_err(|errors| format!("{shown}: {errors}"))?;
    // Planned for a card, whatever this machine has.
    let dtype = config.models.dtype.as_deref().map_or(Ok(DType::BF16), device::dtype);
    let quantisation = super::models::quantisation(&config.models).map_err(|error| error.to_string())?;
    let dtypes = Dtypes::of(dtype.map_err(|error| error.to_string())?, quantisation);
    let caches = Caches::from_vars(|name| std::env::var(name).ok());
    let sizes = sizes::sizes(&config.models, &caches, dtypes).map_err(|error| error.to_string())?;
    let total = options.gpu_total.of(0).ok_or("--gpu-total: expected a size such as 24GiB")?;
    let limit = options.gpu_budget.or(config.engine.gpu_budget);
    let terms = Terms {
        budget: card_room(limit, total),
        host_budget: options.host_budget.or(config.engine.host_budget).and_then(|limit| limit.of(0)),
        threshold: config.engine.auto_unload_threshold,
        prefetch: true,
    };
    let stops = stops(&plan, dtypes.precision(), false);
    let itinerary = itinerary(&plan, &stops, &Roster::numbered());
    let standing: Vec<Standing> = sizes
        .nets
        .iter()
        .map(|size| Standing { on_host: !options.cold, ..Standing::on_disk(size) })
        .collect();
    let schedule = schedule::plan(&sizes.nets, &standing, &itinerary, &terms)
        .map_err(|refused| format!("{shown}: {refused}"))?;
    Ok(Forecast { schedule, itinerary, sizes, budget: terms.budget, bus: options.bus, disk: options.disk })
}

//! Each kernel on its own: how fast at the shapes that nets ask for, and how exact at random ones.
//!
//! Owns the one list of kernels (`table`, entries in `families`), how a launch is timed and how far a result may be from
//! the CPU's. Calls kernels through `models::ops`, as nets do. Must not know any net beyond its shapes. Callers: `marquee
//! bench --kernels` and `marquee parity --kernels`.

mod case;
mod check;
mod dice;
mod families;
mod lap;
mod report;
mod table;

use candle_core::DType;

pub use case::{Call, Case};
pub use check::{Checked, Checks, Miss, Worst, apart, check};
pub use report::{KernelReport, KernelTimes};
pub use table::{Bound, Kernel, Row, all, filter, meant_by};

use super::ceilings::{Ceilings, Overrides};
use super::machine::Machine;
use super::nets::Size;
use crate::models::device::{DeviceError, Target, keep_freed};
use lap::Often;

/// Bytes of freed memory that stay with the allocator: more than any row's results.
const KEPT: u64 = 4 << 30;

/// What to time and how.
#[derive(Debug, Clone)]
pub struct KernelSettings {
    /// Where.
    pub target: Target,
    /// Kernels, as [`meant_by`]; all if empty.
    pub filters: Vec<String>,
    /// Instead of each net's own; kernels that do not take it are left out.
    pub dtype: Option<DType>,
    /// The nets' shapes, or a random small one of each kernel.
    pub size: Size,
    /// Laps whose times count.
    pub repeats: usize,
    /// Laps before those.
    pub warmups: usize,
    /// Of inputs, and of small shapes.
    pub seed: u64,
    /// Measured figures in place of the data sheet's.
    pub overrides: Overrides,
}

/// Times all kernels that are meant, at all their shapes. One that fails leaves its error in the report, and the next runs.
/// `done` sees each row as it comes.
///
/// # Errors
/// The device cannot be opened.
pub fn run(
    settings: &KernelSettings,
    done: &mut dyn FnMut(&KernelTimes),
) -> Result<KernelReport, DeviceError> {
    let device = settings.target.open()?;
    let machine = Machine::of(&device);
    let ceilings = Ceilings::of(&machine.name, settings.overrides);
    // As the stages' clock: freed memory stays with the allocator. A card that is lost says so at the first launch.
    let _ = keep_freed(&device, KEPT);
    let often = Often { laps: settings.repeats, warmups: settings.warmups };
    let mut kernels = Vec::new();
    for kernel in meant_by(&settings.filters) {
        for row in shapes(kernel, settings) {
            let dtype = settings.dtype.unwrap_or(row.dtype);
            if !kernel.dtypes.contains(&dtype) {
                continue;
            }
            let times = match lap::laps(&row.case, settings.seed, dtype, often, &device) {
                Ok(laps) => KernelTimes::new(kernel, &row, dtype, &laps, &ceilings),
                Err(error) => KernelTimes::failed(kernel, &row, dtype, &error),
            };
            done(&times);
            kernels.push(times);
        }
    }
    Ok(KernelReport {
        program: "marquee",
        version: env!("CARGO_PKG_VERSION"),
        device: machine,
        target: settings.target.to_string(),
        ceilings,
        kernels,
    })
}

fn shapes(kernel: &Kernel, settings: &KernelSettings) -> Vec<Row> {
    match settings.size {
        Size::Published => kernel.rows(),
        Size::Tiny => {
            let dtype = kernel.dtypes.first().copied().unwrap_or(DType::F32);
            vec![Row { net: "none", dtype, case: kernel.random(settings.seed) }]
        }
    }
}

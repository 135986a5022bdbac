//! The time of one case: laps of many launches each, over input sets that no cache holds.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};

use super::case::{Call, Case, spread};

/// Bytes that a turn over all sets ought to touch: three times an H200's second-level cache of 50 MB, which is the largest
/// among the cards in `Ceilings`, but for Ada's 96 MB.
const TURN: f64 = 150e6;
/// Sets at most, and at least on a card.
const SETS: (usize, usize) = (2, 256);
/// What a lap ought to take; the clock of events has a resolution of half a microsecond.
const LAP: Duration = Duration::from_millis(3);
/// Launches of a lap at most: they must fit into the card's queue of about a thousand.
const LAUNCHES: usize = 100;

/// What a case took.
#[derive(Debug, Clone, Default)]
pub(super) struct Laps {
    /// Microseconds of one launch, lap by lap in ascending order.
    pub(super) microseconds: Vec<f64>,
    /// Microseconds of the host for one launch, the median lap's.
    pub(super) host: f64,
    /// In most laps the card waited for the host.
    pub(super) launch_bound: bool,
    /// Launches of a lap.
    pub(super) launches: usize,
    /// Input sets, used in turn.
    pub(super) sets: usize,
}

/// How often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Often {
    pub(super) laps: usize,
    pub(super) warmups: usize,
}

/// A case's sets, and their last results: held for a turn, or the next launch would write where the cache still is.
struct Sets<'a> {
    calls: Vec<Call<'a>>,
    results: Vec<Vec<Tensor>>,
    next: usize,
}

impl Sets<'_> {
    fn launch(&mut self) -> Result<()> {
        let index = self.next % self.calls.len().max(1);
        self.next += 1;
        if let (Some(call), Some(slot)) = (self.calls.get(index), self.results.get_mut(index)) {
            *slot = call()?;
        }
        Ok(())
    }

    fn launches(&mut self, count: usize) -> Result<()> {
        (0..count).try_for_each(|_| self.launch())
    }
}

/// A lap on whatever device.
struct Lap {
    device: Duration,
    host: Duration,
    queued: bool,
}

/// Times `case` in `dtype` on `device`; sets come from `seed`.
///
/// # Errors
/// No room on the device, whatever the kernel says.
pub(super) fn laps(case: &Case, seed: u64, dtype: DType, often: Often, device: &Device) -> Result<Laps> {
    let (least, most) = SETS;
    let wanted = if device.is_cpu() { least } else { (TURN / case.bytes(dtype).max(1.0)).ceil() as usize };
    let count = wanted.clamp(least, most);
    let call = |set: usize| case.on(case.inputs(spread(seed, set as u64), dtype, device)?);
    let calls = (0..count).map(call).collect::<Result<_>>()?;
    let mut sets = Sets { calls, results: vec![Vec::new(); count], next: 0 };
    let mut watch = Watch::new(device)?;
    // Kernels are loaded and plans built in the first launch.
    watch.lap(&mut sets, 1, Duration::ZERO)?;
    let tried = watch.lap(&mut sets, 3, Duration::ZERO)?;
    let each = tried.device.max(Duration::from_nanos(100)) / 3;
    let launches = ((LAP.as_secs_f64() / each.as_secs_f64()).ceil() as usize).clamp(1, LAUNCHES);
    let mut host = tried.host / 3;
    let mut kept = Vec::with_capacity(often.laps);
    for lap in 0..often.warmups + often.laps {
        // Twice what the host took so far, and a little for its bad moments.
        let meanwhile = host * 2 * (launches as u32 + 1) + Duration::from_micros(300);
        let lapped = watch.lap(&mut sets, launches, meanwhile)?;
        host = host.max(lapped.host / launches as u32);
        if lap >= often.warmups {
            kept.push(lapped);
        }
    }
    let microseconds = |of: fn(&Lap) -> Duration| {
        let mut all: Vec<f64> =
            kept.iter().map(|lap| of(lap).as_secs_f64() * 1e6 / launches as f64).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let hosts = microseconds(|lap| lap.host);
    Ok(Laps {
        microseconds: microseconds(|lap| lap.device),
        host: hosts.get(hosts.len() / 2).copied().unwrap_or(0.0),
        launch_bound: 2 * kept.iter().filter(|lap| !lap.queued).count() > kept.len(),
        launches,
        sets: count,
    })
}

/// The card's events, or the clock on the wall.
enum Watch {
    #[cfg(feature = "cuda")]
    Card(crate::cuda::stopwatch::Stopwatch),
    Wall,
}

impl Watch {
    #[cfg_attr(
        not(feature = "cuda"),
        allow(unused_variables, clippy::unnecessary_wraps, reason = "one kind of device")
    )]
    fn new(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            return crate::cuda::stopwatch::Stopwatch::new(cuda).map(Self::Card);
        }
        Ok(Self::Wall)
    }

    /// `launches`, after one that pays for cold caches, while the card is busy for `meanwhile`.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "a CPU has no queue"))]
    fn lap(&mut self, sets: &mut Sets<'_>, launches: usize, meanwhile: Duration) -> Result<Lap> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Card(watch) => {
                let sets = std::cell::RefCell::new(sets);
                let timed = watch.time(
                    meanwhile,
                    || sets.borrow_mut().launch(),
                    || sets.borrow_mut().launches(launches),
                )?;
                Ok(Lap { device: timed.device, host: timed.host, queued: timed.queued })
            }
            Self::Wall => {
                let begun = Instant::now();
                sets.launches(launches)?;
                let took = begun.elapsed();
                Ok(Lap { device: took, host: took, queued: true })
            }
        }
    }
}

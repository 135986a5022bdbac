//! Times of rounds, and the most memory that was taken meanwhile.

use std::time::Instant;

use candle_core::{Device, Result};

use super::machine::Watcher;
use crate::models::device::keep_freed;

/// Bytes of freed memory that stay with the allocator between rounds: more than any stage computes in at 1024 x 1024.
const KEPT: u64 = 4 << 30;

/// Takes the time of one round after the other. The device has finished whenever it is read.
pub(super) struct Clock {
    device: Device,
    warmups: usize,
    /// Memory is not watched while times count: asking the driver holds up what else is asked of it.
    watcher: Option<Watcher>,
    peak: Option<u64>,
    begun: Instant,
    milliseconds: Vec<f64>,
}

impl Clock {
    pub(super) fn new(device: &Device, warmups: usize) -> Self {
        // What the stage before left goes; then freed memory is kept as the engine keeps it where the card has room. A card
        // that is lost says so at the first round.
        let _ = keep_freed(device, 0).and_then(|()| keep_freed(device, KEPT));
        Self {
            device: device.clone(),
            warmups,
            watcher: Some(Watcher::start(device)),
            peak: None,
            begun: Instant::now(),
            milliseconds: Vec::new(),
        }
    }

    /// A round begins.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.device.synchronize()?;
        if self.milliseconds.len() > self.warmups {
            self.watched();
        }
        self.begun = Instant::now();
        Ok(())
    }

    /// The round is over.
    pub(super) fn end(&mut self) -> Result<()> {
        self.device.synchronize()?;
        self.milliseconds.push(self.begun.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    fn watched(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            self.peak = watcher.stop();
        }
    }

    /// Milliseconds of the first round: the process may still load kernels and build plans.
    pub(super) fn first(&self) -> Option<f64> {
        self.milliseconds.first().copied()
    }

    /// Those that count, in ascending order.
    pub(super) fn counted(&self) -> Vec<f64> {
        let mut times: Vec<f64> = self.milliseconds.iter().skip(1 + self.warmups).copied().collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// Most bytes in use: on a card by all processes, as the driver counts; on a CPU by this one.
    pub(super) fn peak(&self) -> Option<u64> {
        self.peak
    }
}

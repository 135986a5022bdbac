//! Times of rounds, and the most memory that was taken meanwhile.

use std::time::Instant;

use candle_core::{Device, Result};

use super::machine::Watcher;

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

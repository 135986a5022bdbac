//! Time on the card alone, whatever the host needs to give it work.
//!
//! A launch costs the host 5 to 20 us, many kernels take the card less. So the card is first kept busy with something long,
//! and the work queues up behind it, between two events: if the first has not passed by the time the last launch is
//! queued, the card never waited for the host. Must not know what is measured. Caller: the benchmark.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DriverError, sys};
use candle_core::{CudaDevice, Error, Result};

/// What keeps the card busy: a fill of 512 MiB, 0.1 to 0.6 ms.
const BALLAST: usize = 512 << 20;
/// Fills at most: a host that needs longer than these is what is measured.
const MOST: usize = 200;

/// What some work took.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// From the first event to the second, on the card.
    pub device: Duration,
    /// For the host to queue it.
    pub host: Duration,
    /// Whether all was queued before the card began: else the time may be the host's.
    pub queued: bool,
}

/// Measures on one card.
pub struct Stopwatch {
    stream: Arc<CudaStream>,
    ballast: CudaSlice<u8>,
    /// One fill takes so long.
    fill: Duration,
}

impl Stopwatch {
    /// # Errors
    /// No room for the ballast, a lost card.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let ballast = stream.alloc_zeros::<u8>(BALLAST).map_err(failed)?;
        let mut watch = Self { stream, ballast, fill: Duration::ZERO };
        // The first fill maps the memory.
        for _ in 0..2 {
            let begun = watch.mark()?;
            watch.stream.memset_zeros(&mut watch.ballast).map_err(failed)?;
            let ended = watch.mark()?;
            watch.fill = between(&begun, &ended)?;
        }
        Ok(watch)
    }

    /// Time of `work`, which queues launches and does not wait, after `before`, which is not timed. The card is kept busy for
    /// `meanwhile`: longer than the host needs for both.
    ///
    /// # Errors
    /// What `work` returns, a lost card.
    pub fn time(
        &mut self,
        meanwhile: Duration,
        before: impl FnOnce() -> Result<()>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Timed> {
        self.stream.synchronize().map_err(failed)?;
        let fills = meanwhile.as_secs_f64() / self.fill.as_secs_f64().max(1e-6);
        for _ in 0..(fills.ceil() as usize).min(MOST) {
            self.stream.memset_zeros(&mut self.ballast).map_err(failed)?;
        }
        before()?;
        let begun = self.mark()?;
        let clock = Instant::now();
        work()?;
        let host = clock.elapsed();
        let queued = !begun.try_is_complete().map_err(failed)?;
        let ended = self.mark()?;
        Ok(Timed { device: between(&begun, &ended)?, host, queued })
    }

    fn mark(&self) -> Result<CudaEvent> {
        self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)
    }
}

/// Waits for both.
fn between(begun: &CudaEvent, ended: &CudaEvent) -> Result<Duration> {
    let milliseconds = begun.elapsed_ms(ended).map_err(failed)?;
    Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
}

fn failed(error: DriverError) -> Error {
    Error::Cuda(Box::new(error))
}

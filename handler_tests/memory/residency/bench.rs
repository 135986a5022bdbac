//! A device of so many bytes, and models that are only numbers.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{DType, Device, Error, Result};
use marquee::input::plan::AutoUnload;
use marquee::memory::driver::{Driver, Usage};
use marquee::memory::pace::Pace;
use marquee::memory::schedule::{RING_SLOTS, Size};
use marquee::memory::shelf::{Arrival, Shelf};
use marquee::memory::{Handle, Itinerary, Limit, Limits, Memory, ModelId, Visit, timetable};
use marquee::models::weights::Weights;

/// What the device and the shelves were asked to do, in order.
#[derive(Default)]
pub(super) struct Counter {
    pub(super) total: u64,
    pub(super) used: u64,
    /// Taken by somebody else.
    pub(super) foreign: u64,
    pub(super) peak: u64,
    pub(super) host: u64,
    pub(super) host_peak: u64,
    pub(super) log: Vec<String>,
    /// What the allocator may hold on to.
    pub(super) kept: u64,
    /// Length of the log at each wait for freed memory.
    pub(super) settled: Vec<usize>,
    /// The next wait takes until this says something.
    pub(super) gate: Option<Receiver<()>>,
    /// Pieces of work that a read for ever has done, and how many of them while weights came from files.
    pub(super) read_on: u64,
    pub(super) read_beside: Option<u64>,
    /// The next allocation fails with these words.
    pub(super) fail: Option<String>,
}

impl Counter {
    fn take(&mut self, bytes: u64) -> Result<()> {
        if let Some(words) = self.fail.take() {
            return Err(Error::Msg(words));
        }
        if self.used + self.foreign + bytes > self.total {
            return Err(Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned()));
        }
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        Ok(())
    }
}

pub(super) type Shared = Arc<Mutex<Counter>>;

struct Counting(Shared);

impl Driver for Counting {
    fn usage(&self) -> Result<Option<Usage>> {
        let counter = self.0.lock().unwrap();
        Ok(Some(Usage { free: counter.total - counter.used - counter.foreign, total: counter.total }))
    }

    fn settle(&self) -> Result<()> {
        let gate = self.0.lock().unwrap().gate.take();
        // Hung up, or told to go on: either way it is open.
        let _ = gate.map(|gate| gate.recv());
        let mut counter = self.0.lock().unwrap();
        let at = counter.log.len();
        counter.settled.push(at);
        Ok(())
    }

    fn keep(&self, bytes: u64) -> Result<()> {
        self.0.lock().unwrap().kept = bytes;
        Ok(())
    }
}

pub(super) struct Numbers {
    size: Size,
    on_host: Mutex<bool>,
    counter: Shared,
    reads: Reads,
}

/// How a model's reads go.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reads {
    AtOnce,
    /// Until they are stopped.
    ForEver,
    Fail,
}

impl Shelf for Numbers {
    fn size(&self) -> Size {
        self.size.clone()
    }

    fn is_on_host(&self) -> bool {
        *self.on_host.lock().unwrap()
    }

    fn read(&self, pace: &Pace) -> Result<()> {
        match self.reads {
            Reads::AtOnce => {}
            Reads::ForEver => {
                self.counter.lock().unwrap().log.push(format!("read {} for ever", self.size.name));
                loop {
                    pace.keep()?;
                    self.counter.lock().unwrap().read_on += 1;
                    std::thread::yield_now();
                }
            }
            Reads::Fail => return Err(Error::Msg("a disk that is broken".to_owned())),
        }
        let mut on_host = self.on_host.lock().unwrap();
        if !*on_host {
            let mut counter = self.counter.lock().unwrap();
            counter.log.push(format!("read {}", self.size.name));
            counter.host += self.size.host;
            counter.host_peak = counter.host_peak.max(counter.host);
            *on_host = true;
        }
        Ok(())
    }

    fn forget(&self) {
        let mut on_host = self.on_host.lock().unwrap();
        if std::mem::take(&mut *on_host) {
            self.counter.lock().unwrap().host -= self.size.host;
        }
    }

    fn arrival(&self) -> Box<dyn Arrival> {
        Box::new(Arrived {
            size: self.size.clone(),
            held: Vec::new(),
            ring: 0,
            counter: Arc::clone(&self.counter),
        })
    }
}

struct Arrived {
    size: Size,
    held: Vec<usize>,
    ring: u64,
    counter: Shared,
}

impl Arrival for Arrived {
    fn bring(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()> {
        if !go_on() {
            return Err(Error::Msg("given up".to_owned()));
        }
        let read_on = || self.counter.lock().unwrap().read_on;
        let before = read_on();
        if before > 0 {
            // Long enough for a read that is not held up to show.
            std::thread::sleep(Duration::from_millis(20));
            let beside = read_on() - before;
            self.counter.lock().unwrap().read_beside = Some(beside);
        }
        let mut counter = self.counter.lock().unwrap();
        counter.take(pieces.iter().map(|piece| self.size.pieces[*piece]).sum())?;
        for piece in pieces {
            counter.log.push(format!("bring {} {piece}", self.size.name));
            self.held.push(*piece);
        }
        Ok(())
    }

    fn weights(&mut self, streamed: &[usize]) -> Result<Weights> {
        let all = self.held.iter().chain(streamed).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(all, self.size.pieces.len(), "{} is built without all of its pieces", self.size.name);
        let ring = if streamed.is_empty() { 0 } else { RING_SLOTS * self.size.slot };
        let mut counter = self.counter.lock().unwrap();
        counter.used -= std::mem::take(&mut self.ring);
        counter.take(ring)?;
        counter.log.push(format!("build {}{}", self.size.name, if ring > 0 { " streamed" } else { "" }));
        self.ring = ring;
        Ok(Weights::from_map(HashMap::new(), DType::F32, &Device::Cpu))
    }

    fn free(&mut self, pieces: &[usize]) -> Result<()> {
        let mut counter = self.counter.lock().unwrap();
        counter.used -= std::mem::take(&mut self.ring);
        for piece in pieces {
            assert!(self.held.contains(piece), "{} piece {piece} is freed and not there", self.size.name);
            self.held.retain(|held| held != piece);
            counter.used -= self.size.pieces[*piece];
            counter.log.push(format!("free {} {piece}", self.size.name));
        }
        Ok(())
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let mut counter = self.counter.lock().unwrap();
        let left: u64 = self.held.iter().map(|piece| self.size.pieces[*piece]).sum();
        counter.used -= left + self.ring;
    }
}

/// A memory over a counting device.
pub(super) struct Bench {
    pub(super) memory: Memory,
    pub(super) counter: Shared,
}

/// What a model becomes.
pub(super) struct Net;

impl Bench {
    pub(super) fn new(total: u64, limits: Limits) -> Self {
        let counter = Arc::new(Mutex::new(Counter { total: RESERVE + total, ..Counter::default() }));
        let memory =
            Memory::with_driver(&Device::Cpu, limits, Box::new(Counting(Arc::clone(&counter)))).unwrap();
        Self { memory, counter }
    }

    /// All of the device, every host copy kept.
    pub(super) fn roomy(total: u64) -> Self {
        Self::new(total, Limits { host: Some(Limit::Off), ..Limits::default() })
    }

    pub(super) fn model(&mut self, name: &str, pieces: &[u64], slot: u64) -> Handle<Net> {
        self.model_that_reads(Reads::AtOnce, name, pieces, slot)
    }

    pub(super) fn model_that_reads(
        &mut self,
        reads: Reads,
        name: &str,
        pieces: &[u64],
        slot: u64,
    ) -> Handle<Net> {
        let size = Size { name: name.to_owned(), pieces: pieces.to_vec(), slot, host: pieces.iter().sum() };
        let shelf = Numbers { size, on_host: Mutex::new(false), counter: Arc::clone(&self.counter), reads };
        self.memory.register_shelf(Arc::new(shelf), |_| Ok(Net))
    }

    pub(super) fn used(&self) -> u64 {
        self.counter.lock().unwrap().used
    }

    /// What was done since the last call, reads aside: they happen on another thread.
    pub(super) fn done(&self) -> Vec<String> {
        let mut log = std::mem::take(&mut self.counter.lock().unwrap().log);
        log.retain(|line| !line.starts_with("read"));
        log
    }

    /// The next visit, and all host copies that it had asked for.
    pub(super) fn enter_and_read(&mut self) {
        self.memory.enter().unwrap();
        self.memory.wait_for_host_copies();
    }

    pub(super) fn begin(&mut self, visits: Vec<Visit>, auto_unload: [AutoUnload; 3]) {
        self.memory.begin(Itinerary { visits, rules: timetable(auto_unload) }).unwrap();
    }
}

/// What memory leaves to the driver (its `RESERVE`); tests reckon without it.
pub(super) const RESERVE: u64 = 1 << 30;

pub(super) fn visit(step: u8, models: &[ModelId], work: u64) -> Visit {
    Visit { label: format!("step {step} on {models:?}"), models: models.to_vec(), work, step }
}

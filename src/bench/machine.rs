//! The device's name, and its memory while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use candle_core::Device;
use serde::Serialize;

/// Between two looks at a card's memory.
const INTERVAL: Duration = Duration::from_millis(1);

/// What is measured on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// As the driver or the processor calls itself.
    pub(super) name: String,
    /// Of the card, or of main memory.
    pub(super) memory_bytes: Option<u64>,
}

impl Machine {
    pub(super) fn of(device: &Device) -> Self {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let stream = cuda.cuda_stream();
                let context = stream.context();
                Self {
                    name: context.name().unwrap_or_else(|_| "unknown card".to_owned()),
                    memory_bytes: context.mem_get_info().ok().map(|(_, total)| total as u64),
                }
            }
            _ => Self {
                name: line("/proc/cpuinfo", "model name").unwrap_or_else(|| "CPU".to_owned()),
                memory_bytes: kilobytes("/proc/meminfo", "MemTotal"),
            },
        }
    }
}

/// Looks at the memory until it is told to stop.
pub(super) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watcher {
    pub(super) fn start(device: &Device) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let Some(used) = used(device) else {
            // The kernel keeps the peak; "5" sets it back. Without the right to it the peak is the process's.
            let _ = std::fs::write("/proc/self/clear_refs", "5");
            return Self { stop, thread: None };
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = used().unwrap_or(0).max(peak);
                std::thread::sleep(INTERVAL);
            }
            used().unwrap_or(0).max(peak)
        });
        Self { stop, thread: Some(thread) }
    }

    /// The most that was seen.
    pub(super) fn stop(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread {
            Some(thread) => thread.join().ok().filter(|&peak| peak > 0),
            None => kilobytes("/proc/self/status", "VmHWM"),
        }
    }
}

/// Reads how much of a card is taken, without waiting for its work; nothing for a CPU.
type Used = Box<dyn Fn() -> Option<u64> + Send>;

#[cfg(feature = "cuda")]
fn used(device: &Device) -> Option<Used> {
    let Device::Cuda(cuda) = device else { return None };
    let stream = cuda.cuda_stream();
    Some(Box::new(move || {
        stream.context().mem_get_info().ok().map(|(free, total)| total.saturating_sub(free) as u64)
    }))
}

#[cfg(not(feature = "cuda"))]
fn used(_: &Device) -> Option<Used> {
    None
}

fn kilobytes(file: &str, field: &str) -> Option<u64> {
    let value = line(file, field)?;
    value.trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// What stands behind `field` and a colon.
fn line(file: &str, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == field).then(|| value.trim().to_owned())
    })
}

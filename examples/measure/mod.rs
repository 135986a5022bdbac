//! What the measuring examples share: where to run, tensors in and out, wall times, peak memory.
//!
//! Not every example uses all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use marquee::models::device::{self, Target};
use nvml_wrapper::Nvml;
use serde_json::{Map, Value};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// `DEVICE` and `DTYPE`.
pub fn place() -> Outcome<(Target, DType)> {
    let target: Target =
        std::env::var("DEVICE").map_or_else(|_| Ok(Target::default()), |text| text.parse())?;
    let dtype = match std::env::var("DTYPE") {
        Ok(text) => device::dtype(&text)?,
        Err(_) => target.default_dtype(),
    };
    Ok((target, dtype))
}

/// Exactly `N` words behind the program's name.
pub fn arguments<const N: usize>(usage: &str) -> Outcome<[String; N]> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    words.try_into().map_err(|_| format!("usage: {usage}").into())
}

/// A file of tensors with numbers in its metadata.
pub struct Request {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    fields: HashMap<String, String>,
}

impl Request {
    pub fn read(path: &str) -> Outcome<Self> {
        let bytes = std::fs::read(path)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)?;
        let fields = header.metadata().clone().unwrap_or_default();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        Ok(Self { path: path.into(), tensors, fields })
    }

    pub fn tensor(&self, name: &str) -> Outcome<&Tensor> {
        self.tensors.get(name).ok_or_else(|| format!("{}: no tensor {name}", self.path.display()).into())
    }

    pub fn ids(&self, name: &str) -> Outcome<Vec<Vec<u32>>> {
        Ok(self.tensor(name)?.to_dtype(DType::U32)?.to_vec2()?)
    }

    pub fn field<T: std::str::FromStr>(&self, name: &str) -> Outcome<T>
    where
        T::Err: Error + 'static,
    {
        let text = self
            .fields
            .get(name)
            .ok_or_else(|| format!("{}: no {name} in the metadata", self.path.display()))?;
        Ok(text.parse()?)
    }
}

/// Tensors for another program.
#[derive(Default)]
pub struct Results(HashMap<&'static str, Tensor>);

impl Results {
    pub fn insert(&mut self, name: &'static str, tensor: Tensor) {
        self.0.insert(name, tensor);
    }

    pub fn write(self, path: &str) -> Outcome<()> {
        let host = |tensor: Tensor| tensor.to_device(&Device::Cpu)?.contiguous();
        let out: HashMap<_, _> = self
            .0
            .into_iter()
            .map(|(key, tensor)| Ok((key, host(tensor)?)))
            .collect::<candle_core::Result<_>>()?;
        Ok(candle_core::safetensors::save(&out, Path::new(path))?)
    }
}

/// Wall time between points at which the device has finished.
pub struct Clock {
    last: Instant,
    laps: Map<String, Value>,
}

impl Clock {
    pub fn start() -> Self {
        Self { last: Instant::now(), laps: Map::new() }
    }

    pub fn lap(&mut self, name: &str, device: &Device) -> candle_core::Result<()> {
        device.synchronize()?;
        let elapsed = self.last.elapsed().as_secs_f64() * 1e3;
        self.laps.insert(name.to_owned(), rounded(elapsed).into());
        eprintln!("{name}: {elapsed:.1} ms");
        self.last = Instant::now();
        Ok(())
    }

    /// Milliseconds by name.
    pub fn laps(self) -> Map<String, Value> {
        self.laps
    }
}

fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 10.0).round() / 10.0
}

/// Wall time from one call to the next.
pub struct Marks<'a> {
    device: &'a Device,
    last: Option<Instant>,
    pub milliseconds: Vec<f64>,
}

impl<'a> Marks<'a> {
    pub fn new(device: &'a Device) -> Self {
        Self { device, last: None, milliseconds: Vec::new() }
    }

    pub fn mark(&mut self) {
        // A device that is lost says so at the next tensor.
        let _ = self.device.synchronize();
        if let Some(last) = self.last.replace(Instant::now()) {
            self.milliseconds.push(rounded(last.elapsed().as_secs_f64() * 1e3));
        }
    }
}

/// The most memory that the card had in use, by the driver's count, above what was in use before this process opened it:
/// context, weights, activations, and what the allocator keeps. Read every millisecond on a thread of its own.
pub struct Peak {
    before: u64,
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    stages: Map<String, Value>,
}

impl Peak {
    /// To be called before the device is opened. `None` for a CPU, or where NVML does not answer.
    pub fn start(target: Target) -> Option<Self> {
        let Target::Cuda(ordinal) = target else { return None };
        let nvml = Nvml::init().ok()?;
        let used = move |nvml: &Nvml| -> Option<u64> {
            Some(nvml.device_by_index(u32::try_from(ordinal).ok()?).ok()?.memory_info().ok()?.used)
        };
        let before = used(&nvml)?;
        let most = Arc::new(AtomicU64::new(before));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (most, stop) = (Arc::clone(&most), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(now) = used(&nvml) {
                        most.fetch_max(now, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Some(Self { before, most, stop, thread: Some(thread), stages: Map::new() })
    }

    /// Ends a stage: its peak goes under `name`, the next one starts.
    pub fn stage(peak: &mut Option<Self>, name: &str) {
        let Some(peak) = peak else { return };
        // Long enough for a last reading.
        std::thread::sleep(Duration::from_millis(5));
        let most = peak.most.swap(0, Ordering::Relaxed).saturating_sub(peak.before);
        eprintln!("{name}: peak {:.2} GiB", most as f64 / f64::from(1 << 30));
        peak.stages.insert(name.to_owned(), most.into());
    }

    /// Bytes by stage; null without a card.
    pub fn stages(peak: Option<Self>) -> Value {
        peak.map_or(Value::Null, |mut peak| Value::Object(std::mem::take(&mut peak.stages)))
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads.
            let _ = thread.join();
        }
    }
}

//! `system_metrics` of a progress report: what this machine is doing, from `/proc` and the NVIDIA driver.
//!
//! Anything that cannot be read is left out. Called by the reporter at most twice a second, never by the engine.

use std::fs;
use std::sync::Mutex;

use serde_json::{Map, Value, json};

/// Reads metrics; keeps what a rate needs from one reading to the next.
#[derive(Default)]
pub struct Metrics {
    /// (busy, total) jiffies of all CPUs at the last reading.
    cpu: Mutex<Option<(u64, u64)>>,
}

impl Metrics {
    /// One reading: `host_memory_{used,total}_bytes`, `cpu_percent`, `process_memory_bytes` and, with a GPU,
    /// `gpu_memory_{used,total}_bytes`, `gpu_utilisation_percent`.
    pub fn read(&self) -> Value {
        let mut all = Map::new();
        if let Some((total, available)) =
            fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(meminfo)
        {
            all.insert("host_memory_used_bytes".into(), json!(total.saturating_sub(available)));
            all.insert("host_memory_total_bytes".into(), json!(total));
        }
        if let Some(percent) = self.cpu_percent() {
            all.insert("cpu_percent".into(), json!(percent));
        }
        if let Some(bytes) = resident_bytes() {
            all.insert("process_memory_bytes".into(), json!(bytes));
        }
        if let Some(gpu) = gpu() {
            all.extend(gpu);
        }
        if all.is_empty() { Value::Null } else { Value::Object(all) }
    }

    fn cpu_percent(&self) -> Option<f64> {
        let now = cpu_jiffies(&fs::read_to_string("/proc/stat").ok()?)?;
        let before = self.cpu.lock().ok()?.replace(now)?;
        let total = now.1.checked_sub(before.1).filter(|total| *total > 0)?;
        let busy = now.0.saturating_sub(before.0);
        Some((1000.0 * busy as f64 / total as f64).round() / 10.0)
    }
}

/// (total, available) bytes.
pub fn meminfo(text: &str) -> Option<(u64, u64)> {
    let kib = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
    };
    Some((kib("MemTotal:")? * 1024, kib("MemAvailable:")? * 1024))
}

/// (busy, total) of the first line of `/proc/stat`: user nice system idle iowait irq softirq steal.
fn cpu_jiffies(text: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    let total: u64 = fields.iter().take(8).sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some((total.saturating_sub(idle), total))
}

/// Resident set of this process (`VmRSS`).
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The first GPU, through NVML, which is opened once and only where the driver's device node exists.
fn gpu() -> Option<Map<String, Value>> {
    use std::sync::OnceLock;
    static NVML: OnceLock<Option<nvml_wrapper::Nvml>> = OnceLock::new();
    let nvml = NVML
        .get_or_init(|| {
            fs::exists("/dev/nvidiactl").unwrap_or(false).then(nvml_wrapper::Nvml::init).and_then(Result::ok)
        })
        .as_ref()?;
    let device = nvml.device_by_index(0).ok()?;
    let mut all = Map::new();
    if let Ok(memory) = device.memory_info() {
        all.insert("gpu_memory_used_bytes".into(), json!(memory.used));
        all.insert("gpu_memory_total_bytes".into(), json!(memory.total));
    }
    if let Ok(use_) = device.utilization_rates() {
        all.insert("gpu_utilisation_percent".into(), json!(use_.gpu));
    }
    Some(all)
}

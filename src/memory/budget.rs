//! How many bytes may be used: `GPU_BUDGET`, `HOST_BUDGET`.
//!
//! Owns the words that users write. Must not know models. Callers: the configuration, [`super::Memory`], `marquee plan`.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

#[cfg(feature = "models")]
use super::driver::Usage;
#[cfg(feature = "models")]
use super::packed::lane::STAGING;

/// A limit as written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// `22GiB`, `22 GB` (10^9), `500M`, or a number of bytes.
    Bytes(u64),
    /// `80%`: of all that the device or the machine has.
    Share(f64),
    /// `off`: nothing is planned, counted against a budget or evicted; the device's end is found by running into it.
    Off,
}

/// What [`Limit`] accepts, for messages.
pub const EXPECTED: &str = "a size such as 22GiB, a share such as 80%, or off";

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("{text:?}: expected {EXPECTED}");
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(wrong());
            }
            return Ok(Self::Share(percent / 100.0));
        }
        match text.parse::<ByteSize>() {
            Ok(size) if size.as_u64() > 0 => Ok(Self::Bytes(size.as_u64())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{}", gib(*bytes)),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::Off => f.write_str("off"),
        }
    }
}

impl Limit {
    /// In bytes, of `total`; `None` if there is no limit.
    pub fn of(self, total: u64) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Share(share) => Some((total as f64 * share) as u64),
            Self::Off => None,
        }
    }
}

/// What grows beside weights and computing after the start: machine code of kernels, cuBLAS's and cuDNN's workspaces, gaps
/// in the pool, the slots of packed copies ([`STAGING`]). FLUX backgrounds at 1024 x 1024 under 22 GiB were seen to take 0.85
/// GiB of it; the rest is distance to the limit.
#[cfg(feature = "models")]
const RESERVE: u64 = 1 << 30;
#[cfg(feature = "models")]
const _: () = assert!(RESERVE / 8 > STAGING as u64);

/// Most that a context takes; what is taken beyond it at the start belongs to other processes.
#[cfg(feature = "models")]
const CONTEXT: u64 = 1 << 30;

/// How much of a device there is for weights and computing.
#[cfg(feature = "models")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// As configured, less what a context takes. `None`: no limit but the device's own.
    configured: Option<u64>,
    off: bool,
}

#[cfg(feature = "models")]
impl Room {
    /// At the start, before there are weights.
    pub(super) fn new(limit: Option<Limit>, usage: Option<Usage>) -> Self {
        let Some(limit) = limit else { return Self { configured: None, off: false } };
        let context =
            usage.map_or(0, |usage| (usage.total - usage.free.min(usage.total)).min(CONTEXT) + RESERVE);
        let total = usage.map(|usage| usage.total).or_else(|| meminfo().map(|(total, _)| total));
        let bytes = limit.of(total.unwrap_or(u64::MAX));
        Self { configured: bytes.map(|bytes| bytes.saturating_sub(context)), off: limit == Limit::Off }
    }

    /// Of a card that is not there: an idle one of `total` bytes.
    fn imagined(limit: Option<Limit>, total: u64) -> Option<u64> {
        let usage = Usage { free: total.saturating_sub(RESERVE), total };
        Self::new(limit, Some(usage)).now(Some(usage), 0)
    }

    /// Now, with `held` bytes of weights on the device: what others took since does not count.
    pub(super) fn now(self, usage: Option<Usage>, held: u64) -> Option<u64> {
        if self.off {
            return None;
        }
        let there = usage.map(|usage| (usage.free + held).saturating_sub(RESERVE));
        match (self.configured, there) {
            (Some(configured), Some(there)) => Some(configured.min(there)),
            (configured, there) => configured.or(there),
        }
    }
}

/// Bytes for weights and computing on an idle card of `total` bytes under `limit`; `None`: nothing is planned.
#[cfg(feature = "models")]
pub fn card_room(limit: Option<Limit>, total: u64) -> Option<u64> {
    Room::imagined(limit, total)
}

/// Bytes for host copies; `None`: no limit. On a CPU copies would be second ones: none are kept.
#[cfg(feature = "models")]
pub(super) fn host_budget(limit: Option<Limit>, on_cpu: bool) -> Option<u64> {
    match limit {
        Some(limit) => limit.of(meminfo().map_or(u64::MAX, |(total, _)| total)),
        None if on_cpu => Some(0),
        None => Some(available().unwrap_or(u64::MAX) / 2),
    }
}

/// What the machine, or the container that this is, has left.
#[cfg(feature = "models")]
fn available() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = meminfo().map(|(_, available)| available);
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    let container = limit.map(|(most, now)| most.saturating_sub(now));
    match (machine, container) {
        (Some(machine), Some(container)) => Some(machine.min(container)),
        (machine, container) => machine.or(container),
    }
}

/// (total, available) bytes of main memory.
#[cfg(feature = "models")]
fn meminfo() -> Option<(u64, u64)> {
    crate::progress::meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// `21.75 GiB`.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

//! How many bytes may be used: `GPU_BUDGET`, `HOST_BUDGET`.
//!
//! Owns the words that users write. Must not know models. Callers: the configuration, [`super::Memory`], `marquee plan`.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

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

/// A device's memory as the schedule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// For weights and for computing.
    pub bytes: u64,
}

/// `21.75 GiB`.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

//! Where the nets run and in which number formats: `DEVICE`, `DTYPE` and `QUANTIZATION`.
//!
//! Owns the words that users write and the defaults. Must not know any net or what is on the device. Callers: the
//! command line's `generate` and `parity`, the engine's start.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};

use super::ops::Rounding;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not one of the words.
    #[error("DEVICE={0}: expected cpu, cuda or cuda:N (N is the card's number, from 0)")]
    Unknown(String),
    /// Not one of the words.
    #[error("DTYPE={0}: expected f32, bf16 or f16")]
    UnknownDtype(String),
    /// Not one of the words.
    #[error(
        "QUANTIZATION={0}: expected none, fp8 or int8; weights in GGUF blocks are chosen by naming such a file in FLUX_TRANSFORMER"
    )]
    UnknownQuantisation(String),
    /// Products in e4m3 came with compute capability 8.9.
    #[error(
        "QUANTIZATION={0}: expected a card of compute capability 8.9 or higher (Ada, Hopper), found an older one; use int8"
    )]
    Unsuited(Rounding),
    /// This program was built without the feature `cuda`.
    #[error("DEVICE={0}: this program was built for the CPU only; use the CUDA build, or DEVICE=cpu")]
    NotBuilt(Target),
    /// The driver refuses.
    #[error(
        "DEVICE={target}: {reason}; check that `nvidia-smi` lists the card and that the driver is 580 or newer (CUDA 13.0)"
    )]
    Unavailable {
        /// As asked for.
        target: Target,
        /// What the driver said.
        reason: candle_core::Error,
    },
    /// The card stopped answering.
    #[error(transparent)]
    Lost(candle_core::Error),
}

/// A place for nets, not yet opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Main memory; every machine has one.
    #[default]
    Cpu,
    /// An NVIDIA card, numbered as `CUDA_VISIBLE_DEVICES` leaves them.
    Cuda(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Target {
    type Err = DeviceError;

    /// `cpu`, `cuda` (the first card) or `cuda:N`, in any case.
    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        match lower.split_once(':') {
            None if lower == "cpu" => Ok(Self::Cpu),
            None if lower == "cuda" => Ok(Self::Cuda(0)),
            // `usize::from_str` would take "+1".
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                number.parse().map(Self::Cuda).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

impl Target {
    /// Opens the device. On a card, every tensor of the process should come from one opened device: each call makes a
    /// stream of its own, and streams are not ordered among each other.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`] or [`DeviceError::Unavailable`].
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => {
                crate::cuda::open(ordinal).map_err(|reason| DeviceError::Unavailable { target: self, reason })
            }
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt(self)),
        }
    }

    /// What nets compute in if nobody says: bf16 on a card, for which FLUX was published, f32 on a CPU, where half
    /// precision only costs time.
    pub fn default_dtype(self) -> DType {
        match self {
            Self::Cpu => DType::F32,
            Self::Cuda(_) => DType::BF16,
        }
    }
}

/// `f32`, `bf16` or `f16`, in any case.
///
/// # Errors
/// [`DeviceError::UnknownDtype`].
pub fn dtype(text: &str) -> Result<DType, DeviceError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err(DeviceError::UnknownDtype(text.to_owned())),
    }
}

/// What FLUX's blocks are rounded to beyond `DTYPE`: `none`, `fp8` or `int8`, in any case.
///
/// # Errors
/// [`DeviceError::UnknownQuantisation`].
pub fn quantisation(text: &str) -> Result<Option<Rounding>, DeviceError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "none" => Ok(None),
        "fp8" => Ok(Some(Rounding::E4m3)),
        "int8" => Ok(Some(Rounding::Int8)),
        _ => Err(DeviceError::UnknownQuantisation(text.to_owned())),
    }
}

/// Whether products in `quantisation` run on `device`.
///
/// # Errors
/// [`DeviceError::Unsuited`].
pub fn check(quantisation: Option<Rounding>, device: &Device) -> Result<(), DeviceError> {
    match quantisation.filter(|rounding| !rounding.suits(device)) {
        Some(rounding) => Err(DeviceError::Unsuited(rounding)),
        None => Ok(()),
    }
}

/// A card's memory in bytes, other processes' share included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not taken by anybody.
    pub free: usize,
    /// All of it.
    pub total: usize,
}

/// The card's memory; `None` for a CPU, whose memory is shared with everything else on the machine. Waits for the work
/// that was given to the card.
///
/// # Errors
/// [`DeviceError::Lost`].
#[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "only a card can be lost"))]
pub fn memory(device: &Device) -> Result<Option<Memory>, DeviceError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let (free, total) = crate::cuda::memory(cuda).map_err(DeviceError::Lost)?;
            Ok(Some(Memory { free, total }))
        }
        _ => Ok(None),
    }
}

/// `x`, which lies in main memory, on `device`. On a card it does not wait for the weights that cross the bus at the time,
/// as candle's own copies do (see `cuda::upload`): for pictures, noise, tables, whatever is more than 64 KiB.
///
/// # Errors
/// No room on the device, or the device is lost.
pub fn send(x: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(card), Device::Cpu) = (device, x.device())
        && let Some(sent) = crate::cuda::upload::upload(x, card)?
    {
        return Ok(sent);
    }
    x.to_device(device)
}

/// Most bytes of a card that computing used since the last call, and that its allocator held for it; `None` on a CPU.
pub fn computing_peak(device: &Device) -> Option<(u64, u64)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::cuda::pool::high_water(cuda),
        _ => None,
    }
}

/// Lets a card's allocator keep up to `bytes` of freed memory instead of giving it back at every synchronisation; what it
/// holds beyond that goes now. Nothing on a CPU.
///
/// # Errors
/// The device is lost.
#[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, reason = "only a card can be lost"))]
pub fn keep_freed(device: &Device, bytes: u64) -> candle_core::Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::cuda::pool::keep(cuda, bytes),
        _ => {
            let _ = bytes;
            Ok(())
        }
    }
}

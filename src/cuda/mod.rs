//! What only an NVIDIA card has: its context, its memory, and kernels of our own.
//!
//! `kernels/*.cu` and `shim/*.cpp` are compiled by `build.rs` into a library with a C interface: one family of formulas a
//! file. A Rust file beside this one wraps each family as functions on tensors. The only place beside pinned memory with
//! `unsafe`. Must not know any model. Callers: `models::device`, `models::ops`.

pub mod activation;
pub mod attention;
pub mod attention_eight;
pub mod conv;
pub mod copy;
pub mod deform_conv;
pub mod eight;
pub mod launch;
pub mod linear;
pub mod norm;
pub mod picture;
pub mod pixels;
pub mod pool;
pub mod rope;
pub mod side;
pub mod stopwatch;
pub mod unpack;
pub mod upload;
pub mod wide_attention;
pub mod widen;
pub mod window_attention;

pub mod bus;

use candle_core::{CudaDevice, Device, Result};

/// Opens card `ordinal` with a stream of its own, which all threads that use the device share.
///
/// candle's default is a stream per thread: tensors freed on one thread could then still be read by another's kernels.
///
/// # Errors
/// No driver, no such card, a card in exclusive use, or one that the driver lost.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        track_no_events(cuda);
    }
    Ok(device)
}

/// Turns off cudarc's two events an allocation and two records a launch, which order work between streams; a denoise
/// step has thousands of launches.
#[allow(unsafe_code)]
fn track_no_events(device: &CudaDevice) {
    // SAFETY: the caller must order work between streams. There is one stream: `open` made it before any tensor existed,
    // and candle puts every allocation, copy, launch and free of this device on it. The other streams, `bus`'s, copy and
    // unpack into blocks that no tensor's operation frees or reads before an event says so; `side`'s has a device of its own,
    // and events around everything that it is given.
    unsafe { device.disable_event_tracking() }
}

/// (free, total) bytes of the card, as the driver counts: all processes together. What the allocator's pool keeps after a
/// free counts as used until the next synchronisation, so this synchronises first.
///
/// # Errors
/// The context is lost.
pub fn memory(device: &CudaDevice) -> Result<(usize, usize)> {
    let stream = device.cuda_stream();
    let error = |error| candle_core::Error::Msg(format!("the card's memory cannot be read: {error}"));
    stream.synchronize().map_err(error)?;
    stream.context().mem_get_info().map_err(error)
}

//! Packed weights back to numbers: `kernels/unpack.cu`, on whatever stream the caller names. Its twin for a processor is
//! `memory::packed::unpack`. Caller: `bus`, which alone knows that the addresses hold.

use std::ffi::{c_int, c_void};

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys};

use super::launch::{self, Stream};
use crate::memory::packed::lane::Wave;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_unpack(
        from: *const c_void,
        starts: *const u32,
        tiles: c_int,
        skip: u32,
        first: i64,
        numbers: i64,
        to: *mut c_void,
        stream: Stream,
    ) -> c_int;
}

/// Puts the unpacking of `wave`, of a lane of `numbers`, on `stream`: blobs from `from` on, where the lane's first one in
/// place or the slot's first one lies, to the lane at `to`. Both are multiples of 256 bytes. The card is current on this thread.
///
/// # Safety
/// When the stream gets there, `from` holds the wave's blobs, made by `memory::packed::pack` for tiles of this lane; `to` has
/// room for `numbers` of two bytes; nobody else writes either, or reads what the wave fills, before the kernel is done.
///
/// # Errors
/// The card failed.
#[allow(unsafe_code)]
pub(super) unsafe fn unpack(
    from: sys::CUdeviceptr,
    wave: &Wave<'_>,
    numbers: usize,
    to: sys::CUdeviceptr,
    stream: &CudaStream,
) -> Result<()> {
    // SAFETY: `starts` is as long as it says and is read before the call returns; the rest is the caller's promise.
    let code = unsafe {
        marquee_unpack(
            from as *const c_void,
            wave.starts.as_ptr(),
            wave.starts.len() as c_int,
            wave.skip,
            wave.first as i64,
            numbers as i64,
            to as *mut c_void,
            stream.cu_stream().cast(),
        )
    };
    launch::check("marquee_unpack", code)
}

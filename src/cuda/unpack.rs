//! Packed weights back to numbers: `kernels/unpack.cu`, on whatever stream the caller names. Its twin for a processor is
//! `memory::packed::unpack`. Callers: `bus`, which alone knows that the addresses hold; [`Tiles`] for the benchmark.

use std::ffi::{c_int, c_void};

use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys};
use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::launch::{self, Stream, View};
use crate::memory::packed::lane::{RAW, Wave};
use crate::memory::packed::{ALIGN, TILE, pack};

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

/// Packed numbers on a card, to be unpacked elsewhere on it as often as one likes.
pub struct Tiles {
    blobs: Tensor,
    starts: Vec<u32>,
    numbers: usize,
}

impl Tiles {
    /// Packs `numbers`, bf16 as their bits.
    ///
    /// # Errors
    /// No room on the card.
    pub fn pack(numbers: &[u16], device: &CudaDevice) -> Result<Self> {
        let (mut all, mut blob) = (Vec::new(), Vec::new());
        let mut starts = Vec::with_capacity(numbers.len().div_ceil(TILE));
        for tile in numbers.chunks(TILE) {
            let start = (all.len() / ALIGN) as u32;
            if pack(tile, &mut blob) {
                starts.push(start);
                all.extend_from_slice(&blob);
            } else {
                starts.push(start | RAW);
                all.extend(tile.iter().flat_map(|number| number.to_le_bytes()));
            }
            all.resize(all.len().next_multiple_of(ALIGN), 0);
        }
        let count = all.len();
        let blobs = Tensor::from_vec(all, count, &Device::Cuda(device.clone()))?;
        Ok(Self { blobs, starts, numbers: numbers.len() })
    }

    /// The numbers, bf16.
    ///
    /// # Errors
    /// No room on the card, or the card failed.
    #[allow(unsafe_code)]
    pub fn unpack(&self) -> Result<Tensor> {
        let from = View::of(&self.blobs)?;
        let y = launch::empty(self.numbers, DType::BF16, &from.device)?;
        let to = View::of(&y)?;
        let wave = Wave { staged: false, first: 0, starts: &self.starts, skip: 0 };
        // SAFETY: `pack` above made the blobs of these tiles; y has room for all numbers and is nobody else's; both begin
        // allocations, at multiples of 256 bytes, and outlive the kernel in the stream's order.
        unsafe {
            unpack(
                from.address as sys::CUdeviceptr,
                &wave,
                self.numbers,
                to.address as sys::CUdeviceptr,
                &from.device.cuda_stream(),
            )
        }?;
        drop(to);
        Ok(y)
    }
}

//! Pictures, noise and tables from main memory to a card while weights cross the same bus.
//!
//! A card's copy engine serves all streams in the order of arrival: a copy of more than 64 KiB that is asked for while 17 GB
//! of weights are queued waits for all of them (0.31 s on an H100, whatever its stream). So a kernel reads the bytes
//! itself, out of mapped memory: it shares the bus with the weights instead of waiting behind them.
//!
//! Must not know what is uploaded. Caller: `models::device::send`.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, DriverError, result, sys};
use candle_core::{CpuStorage, CudaDevice, DType, Error, Result, Storage, Tensor};

use super::launch::{self, Stream, View};

/// Bytes of main memory that uploads pass through: a picture of 1024 x 1024 in f32 is 12 MiB.
const STAGING: usize = 16 << 20;

/// Where each upload begins: the kernel reads 16 bytes at a time.
const ALIGNMENT: usize = 256;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_fetch(x: *const c_void, y: *mut c_void, bytes: i64, stream: Stream) -> c_int;
}

/// A contiguous copy of `x`, which lies in main memory, on `card`. `None` for formats that no kernel reads.
///
/// # Errors
/// No room on the card or in page-locked memory; the card is lost.
pub fn upload(x: &Tensor, card: &CudaDevice) -> Result<Option<Tensor>> {
    if !matches!(x.dtype(), DType::U8 | DType::U32 | DType::F32 | DType::F16 | DType::BF16) {
        return Ok(None);
    }
    let x = x.contiguous()?;
    let y = launch::empty(x.shape(), x.dtype(), card)?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(numbers) = &*storage else { return Ok(None) };
    let size = x.dtype().size_in_bytes();
    let from = layout.start_offset() * size;
    let Some(bytes) = bytes_of(numbers).and_then(|all| all.get(from..from + x.elem_count() * size)) else {
        return Ok(None);
    };
    let to = View::of(&y)?;
    let mut all = STAGINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let context = card.cuda_stream().context().clone();
    let known = all.iter().position(|staging| Arc::ptr_eq(&staging.context, &context));
    let at = match known {
        Some(at) => at,
        None => {
            all.push(Staging::new(context)?);
            all.len() - 1
        }
    };
    let Some(staging) = all.get_mut(at) else { return Ok(None) };
    for (index, piece) in bytes.chunks(STAGING).enumerate() {
        staging.send(piece, to.address.wrapping_byte_add(index * STAGING), card)?;
    }
    drop(to);
    Ok(Some(y))
}

fn bytes_of(numbers: &CpuStorage) -> Option<&[u8]> {
    match numbers {
        CpuStorage::U8(numbers) => Some(numbers),
        CpuStorage::U32(numbers) => Some(bytemuck::cast_slice(numbers)),
        CpuStorage::F32(numbers) => Some(bytemuck::cast_slice(numbers)),
        CpuStorage::F16(numbers) => Some(bytemuck::cast_slice(numbers)),
        CpuStorage::BF16(numbers) => Some(bytemuck::cast_slice(numbers)),
        _ => None,
    }
}

/// One for each card that was used, for the life of the process.
static STAGINGS: Mutex<Vec<Staging>> = Mutex::new(Vec::new());

/// Page-locked memory that a card's threads can read, filled from its start to its end and then anew.
struct Staging {
    host: ptr::NonNull<u8>,
    mapped: sys::CUdeviceptr,
    /// Where the next upload goes.
    next: usize,
    /// Behind the last kernel that reads it, and so behind all: uploads go to a card's main stream, work on its second one has
    /// none.
    read: Option<CudaEvent>,
    context: Arc<CudaContext>,
}

#[allow(unsafe_code)]
// SAFETY: the memory belongs to the process, not to a thread, and only the holder of the lock reaches it.
unsafe impl Send for Staging {}

fn failed(error: DriverError) -> Error {
    Error::Msg(format!("mapped memory for uploads: {error}"))
}

impl Staging {
    #[allow(unsafe_code)]
    fn new(context: Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().map_err(failed)?;
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the context is current; the memory is never freed, so whatever reads it may run as long as the process.
        let host = unsafe { result::malloc_host(STAGING, flags) }.map_err(failed)?;
        let mut mapped = 0;
        // SAFETY: the address was just allocated with DEVICEMAP; the result is a number.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut mapped, host, 0).result() }.map_err(failed)?;
        let host = ptr::NonNull::new(host.cast::<u8>())
            .ok_or_else(|| Error::Msg("mapped memory for uploads: no address".to_owned()))?;
        Ok(Self { host, mapped, next: 0, read: None, context })
    }

    /// Copies `bytes`, at most [`STAGING`], to `to` in the compute stream's order. Waits only if the memory was filled once and
    /// what it held has not all been read.
    #[allow(unsafe_code)]
    fn send(&mut self, bytes: &[u8], to: launch::Address, card: &CudaDevice) -> Result<()> {
        if self.next + bytes.len() > STAGING {
            if let Some(read) = self.read.take() {
                read.synchronize().map_err(failed)?;
            }
            self.next = 0;
        }
        let stream = card.cuda_stream();
        // SAFETY: `next + len` is within the allocation, checked above; no kernel that may still run reads that part, because
        // parts are given out once between two waits for the last reader; the source is another allocation.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.host.as_ptr().add(self.next), bytes.len()) };
        let from = (self.mapped + self.next as u64) as *const c_void;
        // SAFETY: the mapped part was just written; `to` has room for it (its tensor's address and size) and stays, in stream
        // order, until the kernel is done.
        let code = unsafe { marquee_fetch(from, to, bytes.len() as i64, stream.cu_stream().cast()) };
        launch::check("marquee_fetch", code)?;
        self.read = Some(stream.record_event(None).map_err(failed)?);
        self.next = (self.next + bytes.len()).next_multiple_of(ALIGNMENT);
        Ok(())
    }
}

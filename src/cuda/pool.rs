//! The pool that tensors' memory comes from: how much of what is freed it may hold on to.
//!
//! A pool that keeps nothing gives its pages back at every synchronisation, and takes them anew for the next picture. What it
//! keeps counts as taken by everybody's count. Must not know budgets. Caller: `memory::driver`.

use std::ptr;

use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::{CudaDevice, Error, Result};

/// Lets the pool keep up to `bytes` of freed memory over synchronisations; what it holds beyond that goes now.
///
/// # Errors
/// The card is lost.
#[allow(unsafe_code)]
pub fn keep(device: &CudaDevice, bytes: u64) -> Result<()> {
    let failed = |error: DriverError| Error::Msg(format!("the card's memory pool: {error}"));
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().map_err(failed)?;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut value = bytes;
    // SAFETY: the pool is the device's own, which lives as long as it; the attribute is a number of 64 bits, which is read
    // before the call returns.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device()).map_err(failed)?;
        result::mem_pool::set_attribute(pool, threshold, ptr::from_mut(&mut value).cast()).map_err(failed)?;
        result::mem_pool::trim_to(pool, usize::try_from(bytes).unwrap_or(usize::MAX)).map_err(failed)
    }
}

/// Most bytes since the last call that were in use, and that the pool had of the card; `None` if it does not say.
#[allow(unsafe_code)]
pub fn high_water(device: &CudaDevice) -> Option<(u64, u64)> {
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().ok()?;
    // SAFETY: as in `keep`; the values are written before the call returns.
    let pool = unsafe { result::device::get_mem_pool(context.cu_device()) }.ok()?;
    let read = |attribute| {
        let (mut value, mut zero) = (0u64, 0u64);
        // SAFETY: both attributes are numbers of 64 bits, and setting them to 0 starts them anew.
        unsafe {
            result::mem_pool::get_attribute(pool, attribute, ptr::from_mut(&mut value).cast()).ok()?;
            result::mem_pool::set_attribute(pool, attribute, ptr::from_mut(&mut zero).cast()).ok()?;
        }
        Some(value)
    };
    let used = read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
    let held = read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?;
    Some((used, held))
}

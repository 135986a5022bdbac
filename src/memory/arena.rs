//! The memory of one model's weights, on the host and on the device: a few large pieces instead of a thousand tensors.
//!
//! What lies where says the [`Layout`]. On the device each segment has an allocation of its own, so that blocks can come and
//! go by themselves; it goes back to the driver when the last tensor that views it is dropped. Must not know files or nets.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use candle_core::{CpuStorage, DType, Device, Error, InplaceOp1, Result, Tensor};
use half::{bf16, f16};

use super::pinned::HostMemory;
use super::transfer::Mark;
use crate::models::weights::{ALIGNMENT, Layout};

/// All tensors of a model in main memory, ready to be copied.
pub struct HostArena {
    memory: HostMemory,
    /// By segment, in the order of its lanes.
    lanes: Vec<Vec<(DType, Range<usize>)>>,
    /// The last copy to a device out of this memory.
    read: Mutex<Option<Mark>>,
}

impl HostArena {
    /// Room for some segments of `layout`, holding zeros.
    ///
    /// # Errors
    /// The system has no room.
    pub fn new(layout: &Layout, segments: &[usize]) -> Result<Self> {
        let mut end = 0;
        let lanes = layout
            .segments()
            .iter()
            .enumerate()
            .map(|(index, segment)| {
                if !segments.contains(&index) {
                    return Vec::new();
                }
                let place = |lane: &crate::models::weights::Lane| {
                    let start = end;
                    end += lane.bytes.next_multiple_of(ALIGNMENT);
                    (lane.dtype, start..start + lane.bytes)
                };
                segment.lanes.iter().map(place).collect()
            })
            .collect();
        Ok(Self { memory: HostMemory::new(end)?, lanes, read: Mutex::new(None) })
    }

    /// Whether there is room for a segment.
    pub fn has(&self, segment: usize) -> bool {
        self.lanes.get(segment).is_some_and(|lanes| !lanes.is_empty())
    }

    /// Where a lane lies; empty if the segment has none of this dtype.
    pub fn range(&self, segment: usize, dtype: DType) -> Range<usize> {
        let lanes = self.lanes.get(segment).into_iter().flatten();
        lanes.into_iter().find(|lane| lane.0 == dtype).map_or(0..0, |lane| lane.1.clone())
    }

    /// The memory.
    pub fn memory(&self) -> &HostMemory {
        &self.memory
    }

    /// The memory, before others see it.
    pub fn memory_mut(&mut self) -> &mut HostMemory {
        &mut self.memory
    }

    /// Keeps the memory until `mark` has passed.
    pub(super) fn read_until(&self, mark: Mark) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    }
}

impl Drop for HostArena {
    fn drop(&mut self) {
        // Copies run behind the program's back. Marks of one stream pass in order, so the last one is enough.
        if let Some(mark) = self.read.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            mark.wait();
        }
    }
}

/// Device memory for numbers of one dtype.
pub struct DeviceLane {
    tensor: Tensor,
    #[cfg(feature = "cuda")]
    block: Option<crate::cuda::bus::Block>,
}

impl DeviceLane {
    /// Room for `bytes`, holding anything.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(dtype: DType, bytes: usize, device: &Device) -> Result<Self> {
        let elements = bytes / dtype.size_in_bytes();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            let (tensor, block) = crate::cuda::bus::Block::new(dtype, elements, cuda)?;
            return Ok(Self { tensor, block: Some(block) });
        }
        Ok(Self {
            tensor: Tensor::zeros(elements, dtype, device)?,
            #[cfg(feature = "cuda")]
            block: None,
        })
    }

    /// All of it, one dimension.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The memory behind it on a card.
    #[cfg(feature = "cuda")]
    pub(super) fn block(&self) -> Option<&crate::cuda::bus::Block> {
        self.block.as_ref()
    }

    /// `bytes` from here on, `offset` bytes in, become `from`. For a CPU.
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.tensor.inplace_op1(&Write { offset, from })
    }
}

/// Replaces some bytes of a tensor.
struct Write<'a> {
    offset: usize,
    from: &'a [u8],
}

impl Write<'_> {
    fn into<T: Pod>(&self, numbers: &mut [T]) -> Result<()> {
        let length = size_of_val(numbers);
        let range = self.offset..self.offset + self.from.len();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        let Some(place) = bytes.get_mut(range.clone()) else {
            return Err(Error::Msg(format!("bytes {range:?} of a piece of {length}")));
        };
        place.copy_from_slice(self.from);
        Ok(())
    }
}

impl InplaceOp1 for Write<'_> {
    fn name(&self) -> &'static str {
        "write-bytes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &candle_core::Layout) -> Result<()> {
        match storage {
            CpuStorage::U8(numbers) => self.into::<u8>(numbers),
            CpuStorage::F32(numbers) => self.into::<f32>(numbers),
            CpuStorage::F16(numbers) => self.into::<f16>(numbers),
            CpuStorage::BF16(numbers) => self.into::<bf16>(numbers),
            _ => Err(Error::Msg("weights lie in f32, f16, bf16 or u8".to_owned())),
        }
    }
}

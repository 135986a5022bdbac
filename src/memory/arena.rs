//! The memory of one model's weights, on the host and on the device: a few large pieces instead of a thousand tensors.
//!
//! What lies where says the [`Layout`]. On the device each segment has an allocation of its own, so that blocks can come and
//! go by themselves; it goes back to the driver when the last tensor that views it is dropped. Must not know files or nets.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Device, Error, InplaceOp1, Result, Tensor};
use half::{bf16, f16};

use super::packed;
use super::pinned::HostMemory;
use super::transfer::Mark;
use crate::models::weights::{ALIGNMENT, Layout};

/// Where the lanes of some segments lie one behind the other, unpacked.
pub struct Table {
    /// By segment, in the order of its lanes.
    lanes: Vec<Vec<(DType, Range<usize>)>>,
    bytes: usize,
}

impl Table {
    /// For these segments of `layout`.
    pub fn new(layout: &Layout, segments: &[usize]) -> Self {
        Self::of(layout, segments, &|_, _| true)
    }

    /// For those lanes of these segments that are `wanted`.
    pub fn of(layout: &Layout, segments: &[usize], wanted: &dyn Fn(usize, DType) -> bool) -> Self {
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
                segment.lanes.iter().filter(|lane| wanted(index, lane.dtype)).map(place).collect()
            })
            .collect();
        Self { lanes, bytes: end }
    }

    /// What all of them take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a segment's lane is one of them.
    pub fn has(&self, segment: usize, dtype: DType) -> bool {
        self.lanes.get(segment).is_some_and(|lanes| lanes.iter().any(|lane| lane.0 == dtype))
    }

    /// Where a lane lies; empty if the segment has none of this dtype.
    pub fn range(&self, segment: usize, dtype: DType) -> Range<usize> {
        let lanes = self.lanes.get(segment).into_iter().flatten();
        lanes.into_iter().find(|lane| lane.0 == dtype).map_or(0..0, |lane| lane.1.clone())
    }

    /// Each lane with its segment.
    pub fn lanes(&self) -> impl Iterator<Item = (usize, &(DType, Range<usize>))> {
        let segments = self.lanes.iter().enumerate();
        segments.flat_map(|(segment, lanes)| lanes.iter().map(move |lane| (segment, lane)))
    }
}

/// How a lane lies in main memory.
pub enum Form {
    /// As it will lie on the device.
    Plain,
    /// Packed.
    Packed(packed::lane::Lane),
}

/// A lane in main memory.
pub struct HostLane {
    /// Of its numbers.
    pub dtype: DType,
    /// Its bytes in the arena's memory.
    pub range: Range<usize>,
    /// What they are.
    pub form: Form,
}

/// All tensors of a model in main memory, ready to be copied.
pub struct HostArena {
    memory: HostMemory,
    /// By segment.
    lanes: Vec<Vec<HostLane>>,
    /// The last copy to a device out of this memory.
    read: Mutex<Option<Mark>>,
}

impl HostArena {
    /// `memory` with these lanes, by segment.
    pub fn new(memory: HostMemory, lanes: Vec<Vec<HostLane>>) -> Self {
        Self { memory, lanes, read: Mutex::new(None) }
    }

    /// `memory` that was filled by `table`.
    pub fn plain(memory: HostMemory, table: Table) -> Self {
        let plain = |(dtype, range)| HostLane { dtype, range, form: Form::Plain };
        let lanes = table.lanes.into_iter().map(|lanes| lanes.into_iter().map(plain).collect());
        Self::new(memory, lanes.collect())
    }

    /// A segment's lane of `dtype`, if it has one.
    pub fn lane(&self, segment: usize, dtype: DType) -> Option<&HostLane> {
        self.lanes.get(segment)?.iter().find(|lane| lane.dtype == dtype)
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

    /// Gives its bytes to `change`. For a CPU.
    pub(super) fn edit(&self, change: impl Fn(&mut [u8]) -> Result<()>) -> Result<()> {
        self.tensor.inplace_op1(&Edit { change })
    }
}

/// Changes the bytes of a tensor.
struct Edit<F> {
    change: F,
}

impl<F: Fn(&mut [u8]) -> Result<()>> InplaceOp1 for Edit<F> {
    fn name(&self) -> &'static str {
        "edit-bytes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &candle_core::Layout) -> Result<()> {
        match storage {
            CpuStorage::U8(numbers) => (self.change)(numbers),
            CpuStorage::F32(numbers) => (self.change)(bytemuck::cast_slice_mut::<f32, u8>(numbers)),
            CpuStorage::F16(numbers) => (self.change)(bytemuck::cast_slice_mut::<f16, u8>(numbers)),
            CpuStorage::BF16(numbers) => (self.change)(bytemuck::cast_slice_mut::<bf16, u8>(numbers)),
            _ => Err(Error::Msg("weights lie in f32, f16, bf16 or u8".to_owned())),
        }
    }
}

//! Tensors that already lie on the device, in memory that a [`Layout`] describes: reading one costs a look-up.
//!
//! Knows where tensors lie, not how they came there; [`Lanes`] is what `memory` gives.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};

use super::layout::{Entry, Layout};
use super::{Loaded, Source, checked};
use crate::models::ops::Rounding;

/// Memory that the segments of a [`Layout`] lie in.
pub trait Lanes: Send + Sync {
    /// The tensors of `dtype` of a segment as one tensor of one dimension, [`super::Lane::bytes`] long; `None` if the
    /// segment is not there and has to be lent.
    fn lane(&self, segment: usize, dtype: DType) -> Option<Tensor>;

    /// Whether the segment comes and goes.
    fn is_streamed(&self, segment: usize) -> bool;

    /// Lets computing that is asked for from now on wait, on the device, for a segment that is still on its way.
    ///
    /// # Errors
    /// The device is lost.
    fn arrive(&self, segment: usize) -> Result<()>;

    /// Waits for a streamed segment; it stays until what is returned is dropped. Work that reads it must have been
    /// given to the device by then.
    ///
    /// # Errors
    /// The copy failed.
    fn lend(&self, segment: usize) -> Result<Arc<dyn Lanes>>;
}

/// Where a block that may still be on its way is waited for.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) lanes: Arc<dyn Lanes>,
    pub(super) segment: usize,
}

impl Gate {
    /// Lets computing that is asked for from now on wait for the block.
    pub(super) fn wait(&self) -> Result<()> {
        self.lanes.arrive(self.segment)
    }
}

/// A layout in memory.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) layout: Arc<Layout>,
    pub(super) lanes: Arc<dyn Lanes>,
    /// Has the quantised matrices.
    pub(super) source: Arc<dyn Source>,
}

impl Placed {
    /// As [`Source::load`] would give it, in `dtype`.
    pub(super) fn load(
        &self,
        key: &str,
        expected: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Loaded> {
        let Some(entry) = self.layout.find(key, dtype) else {
            // Quantised, or asked for otherwise than the probe was.
            checked(self.source.as_ref(), key, expected)?;
            return self.source.load(key, None, device);
        };
        if entry.shape != expected {
            return Err(Error::Msg(format!(
                "{key}: expected shape {expected:?}, placed as {:?}",
                entry.shape
            )));
        }
        let flat = self.flat(entry, entry.offset, entry.elements())?;
        match (entry.channels_last, entry.shape.as_slice()) {
            (true, &[outputs, inputs, height, width]) => {
                flat.reshape((outputs, height, width, inputs))?.permute((0, 3, 1, 2)).map(Loaded::Dense)
            }
            _ => flat.reshape(entry.shape.as_slice()).map(Loaded::Dense),
        }
    }

    /// The rows of all `keys` as one matrix (or vector), if they lie below each other.
    pub(super) fn joined(&self, keys: &[(String, Vec<usize>)], dtype: DType) -> Result<Option<Tensor>> {
        let mut entries = Vec::with_capacity(keys.len());
        for (key, shape) in keys {
            match self.layout.find(key, dtype) {
                Some(entry) if entry.shape == *shape && !entry.channels_last => entries.push(entry),
                _ => return Ok(None),
            }
        }
        self.stacked(&entries)
    }

    /// The rows of all `keys` in 8 bits, numbers and scales, if they lie so below each other.
    pub(super) fn rounded(
        &self,
        keys: &[(String, Vec<usize>)],
        rounding: Rounding,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let mut entries = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for (key, shape) in keys {
            match self.layout.find_rounded(key, rounding) {
                Some((numbers, scales)) if numbers.shape == *shape => {
                    entries.0.push(numbers);
                    entries.1.push(scales);
                }
                _ => return Ok(None),
            }
        }
        Ok(self.stacked(&entries.0)?.zip(self.stacked(&entries.1)?))
    }

    /// One view on all rows of `entries`, if they lie below each other.
    fn stacked(&self, entries: &[&Entry]) -> Result<Option<Tensor>> {
        let adjacent = entries.windows(2).all(|pair| match pair {
            [upper, lower] => upper.segment == lower.segment && upper.range().end == lower.offset,
            _ => true,
        });
        let (Some(first), true) = (entries.first(), adjacent) else { return Ok(None) };
        let mut shape = first.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = entries.iter().filter_map(|entry| entry.shape.first()).sum();
        }
        self.flat(first, first.offset, shape.iter().product())?.reshape(shape).map(Some)
    }

    fn flat(&self, entry: &Entry, offset: usize, elements: usize) -> Result<Tensor> {
        let Some(lane) = self.lanes.lane(entry.segment, entry.dtype) else {
            return Err(Error::Msg(format!(
                "{}: its block is streamed and not on the device now; nets reach such blocks through Blocks",
                entry.key
            )));
        };
        lane.narrow(0, offset / entry.dtype.size_in_bytes(), elements)
    }
}

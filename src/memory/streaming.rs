//! Blocks that are on the device only while they run: a ring of slots, filled ahead of use.
//!
//! The copy into a slot waits, on the device, for the block that last ran in it; a block waits for its copy. The program
//! waits for neither. A pass over the blocks costs their bytes on the bus; it costs no time where the blocks between two
//! streamed ones compute for longer than a copy takes, so streamed blocks are spread evenly over the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Error, Result, Tensor};

use super::arena::{DeviceLane, HostArena};
use super::schedule::RING_SLOTS;
use super::transfer::{Mark, Transfer};
use crate::models::weights::{Lanes, Layout};

/// What a slot for any of `segments` must hold.
pub(super) fn capacity(layout: &Layout, segments: &[usize]) -> Vec<(DType, usize)> {
    let most = |dtype| {
        let lanes = segments.iter().filter_map(|index| layout.segments().get(*index));
        lanes.map(|segment| segment.lane(dtype)).max().unwrap_or(0)
    };
    layout.dtypes().into_iter().map(|dtype| (dtype, most(dtype))).filter(|(_, bytes)| *bytes > 0).collect()
}

/// The slots of a net and what is in them.
pub(super) struct Ring {
    layout: Arc<Layout>,
    host: Arc<HostArena>,
    transfer: Transfer,
    /// Segments in the order of use.
    order: Vec<usize>,
    cyclic: bool,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Slot>,
    /// Index into the order of the block that should be asked for next.
    next: usize,
}

struct Slot {
    lanes: Vec<DeviceLane>,
    holds: Option<usize>,
    /// Passes when what it holds has arrived.
    filled: Option<Mark>,
    /// Passes when the last block that ran in it is done.
    used: Option<Mark>,
    lent: bool,
}

impl Ring {
    /// Allocates the slots for the segments `order`, in the order of use, and begins to fill them. With `cyclic` the first
    /// segments follow the last.
    ///
    /// # Errors
    /// The device has no room or is lost.
    pub(super) fn new(
        layout: &Arc<Layout>,
        host: &Arc<HostArena>,
        transfer: &Transfer,
        order: &[usize],
        cyclic: bool,
    ) -> Result<Arc<Self>> {
        let sizes = capacity(layout, order);
        let slot = || -> Result<Slot> {
            let lane = |&(dtype, bytes): &(DType, usize)| DeviceLane::new(dtype, bytes, transfer.device());
            let lanes = sizes.iter().map(lane).collect::<Result<_>>()?;
            Ok(Slot { lanes, holds: None, filled: None, used: None, lent: false })
        };
        let slots = order.iter().take(RING_SLOTS as usize).map(|_| slot()).collect::<Result<_>>()?;
        let ring = Self {
            layout: Arc::clone(layout),
            host: Arc::clone(host),
            transfer: transfer.clone(),
            order: order.to_vec(),
            cyclic,
            state: Mutex::new(State { slots, next: 0 }),
        };
        ring.fill(&mut ring.state())?;
        Ok(Arc::new(ring))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets computing wait for a segment and keeps it until what is returned is dropped.
    pub(super) fn lend(ring: &Arc<Self>, segment: usize) -> Result<Arc<dyn Lanes>> {
        let Some(position) = ring.order.iter().position(|other| *other == segment) else {
            return Err(Error::Msg(format!("segment {segment} is not streamed")));
        };
        let mut state = ring.state();
        // Out of order (a run that was stopped, the first block of the next): filling begins again from here.
        state.next = position;
        ring.fill(&mut state)?;
        let Some(index) = state.slots.iter().position(|slot| slot.holds == Some(segment)) else {
            let slots = state.slots.len();
            return Err(Error::Msg(format!("more than {slots} streamed blocks in use at once")));
        };
        let Some(slot) = state.slots.get_mut(index) else {
            return Err(Error::Msg(format!("no slot {index}")));
        };
        if slot.lent {
            return Err(Error::Msg("a streamed block was asked for while it runs".to_owned()));
        }
        if let Some(mark) = &slot.filled {
            ring.transfer.compute_after(mark)?;
        }
        slot.lent = true;
        let lanes = slot.lanes.iter().map(|lane| lane.tensor().clone()).collect();
        state.next = position + 1;
        if ring.cyclic {
            state.next %= ring.order.len();
        }
        ring.fill(&mut state)?;
        drop(state);
        Ok(Arc::new(Lent { ring: Arc::clone(ring), slot: index, segment, lanes }))
    }

    /// Begins copies of the blocks that come next into slots that hold none of them.
    fn fill(&self, state: &mut State) -> Result<()> {
        let ahead: Vec<usize> = (state.next..state.next + state.slots.len())
            .filter_map(|at| self.order.get(if self.cyclic { at % self.order.len() } else { at }).copied())
            .collect();
        for segment in &ahead {
            if state.slots.iter().any(|slot| slot.holds == Some(*segment)) {
                continue;
            }
            let free = |slot: &&mut Slot| !slot.lent && slot.holds.is_none_or(|held| !ahead.contains(&held));
            let Some(slot) = state.slots.iter_mut().find(free) else { break };
            slot.holds = None;
            if let Some(mark) = &slot.used {
                self.transfer.copy_after(mark)?;
            }
            for lane in &slot.lanes {
                self.transfer.copy(&self.host, *segment, lane)?;
            }
            let mark = self.transfer.mark_copies()?;
            self.host.read_until(mark.clone());
            slot.filled = Some(mark);
            slot.holds = Some(*segment);
        }
        Ok(())
    }

    fn give_back(&self, index: usize) {
        let mut state = self.state();
        // What cannot be ordered or copied now is tried again, and reported, when the next block is asked for.
        let mark = self.transfer.mark_compute();
        if let Some(slot) = state.slots.get_mut(index) {
            slot.lent = false;
            slot.used = mark.ok();
            if slot.used.is_none() {
                slot.holds = None;
            }
        }
        let _ = self.fill(&mut state);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // As for `Upload`: slots are freed behind the computing, copies into them must be done by then.
        if let Ok(mark) = self.transfer.mark_copies() {
            let _ = self.transfer.compute_after(&mark);
        }
    }
}

/// A segment in its slot.
struct Lent {
    ring: Arc<Ring>,
    slot: usize,
    segment: usize,
    /// Of the slot, as long as the largest segment.
    lanes: Vec<Tensor>,
}

impl Lanes for Lent {
    fn lane(&self, segment: usize, dtype: DType) -> Option<Tensor> {
        if segment != self.segment {
            return None;
        }
        let length = self.ring.layout.segments().get(segment)?.lane(dtype) / dtype.size_in_bytes();
        let lane = self.lanes.iter().find(|lane| lane.dtype() == dtype)?;
        lane.narrow(0, 0, length).ok()
    }

    fn is_streamed(&self, segment: usize) -> bool {
        segment != self.segment
    }

    /// Waited for when it was lent.
    fn arrive(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn lend(&self, _: usize) -> Result<Arc<dyn Lanes>> {
        Err(Error::Msg("a block inside of a streamed block".to_owned()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.ring.give_back(self.slot);
    }
}

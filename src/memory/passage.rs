//! The way of weights from files to the device without a copy that stays in main memory: threads read into small page-locked
//! buffers, and what one holds crosses the bus while the next ones fill.
//!
//! Faster than making the copy first, whose memory has to be found, cleared and locked (10 GB/s where this gives 40), so a
//! process computes before its host copies are made. Must not know residency or nets. Caller: `parts`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Error, Result};

use super::arena::{DeviceLane, Table};
use super::loader::{self, job};
use super::pinned::HostMemory;
use super::transfer::{Mark, Transfer};
use crate::models::weights::{Layout, Source};

/// Bytes of a buffer, and of a file that are read at once. Small enough to stay in a core's cache between the read and the
/// bus: on an H100's machine 1 to 4 MiB give 45-47 GB/s, 8 MiB 43.
const BUFFER: usize = 2 << 20;

/// Buffers for each thread: one fills, one crosses, one waits for its turn on the bus.
const BUFFERS: usize = 3;

/// The buffers. They stay, 96 MiB with sixteen threads: page-locking takes as long as reading.
#[derive(Default)]
pub(super) struct Passage {
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// What nobody fills now; what was filled longest ago is first.
    idle: VecDeque<Buffer>,
    /// Buffers that there are.
    made: usize,
}

/// Page-locked memory that may still be read.
struct Buffer {
    memory: HostMemory,
    /// Passes when the last copy out of it is done.
    read: Option<Mark>,
}

impl Buffer {
    fn new(device: &Device) -> Result<Self> {
        let mut memory = HostMemory::new(BUFFER)?;
        // Page-locking wants pages.
        memory.bytes_mut().fill(0);
        memory.lock(device, 1)?;
        Ok(Self { memory, read: None })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(mark) = self.read.take() {
            mark.wait();
        }
    }
}

impl Passage {
    /// Brings segments of `layout` to their lanes, the first ones first. Returns when all is read; copies may still run. The
    /// calling thread asks `go_on` now and then.
    ///
    /// # Errors
    /// A file cannot be read, a tensor cannot be converted, no page-locked memory, a lost card, `go_on` said no. What was begun
    /// may still run.
    pub(super) fn bring(
        &self,
        transfer: &Transfer,
        (layout, source): (&Layout, &dyn Source),
        segments: &[(usize, Vec<DeviceLane>)],
        go_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut jobs = Vec::new();
        for (segment, lanes) in segments {
            let table = Table::new(layout, &[*segment]);
            for job in job::list(&table, layout, source, BUFFER)? {
                let targets =
                    [Target::of(&table, &job.numbers, lanes)?, Target::of(&table, &job.scales, lanes)?];
                jobs.push((job, targets));
            }
        }
        // All at once: a thread's first call of the driver takes as long as some of its reads.
        loader::share_out(jobs, Vec::new, go_on, |(job, targets), scratch| {
            self.carry(&job, source, scratch, transfer, targets)
        })
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a buffer filled that nobody reads any more, and what it holds sent.
    fn with(&self, transfer: &Transfer, work: impl FnOnce(&mut Buffer) -> Result<()>) -> Result<()> {
        let mut pool = self.pool();
        let enough = pool.made >= BUFFERS * loader::threads();
        let passed = |buffer: &Buffer| buffer.read.as_ref().is_none_or(Mark::has_passed);
        let ready = pool.idle.front().is_some_and(|oldest| enough || passed(oldest));
        let idle = if ready { pool.idle.pop_front() } else { None };
        drop(pool);
        let mut buffer = if let Some(mut buffer) = idle {
            if let Some(mark) = buffer.read.take() {
                mark.wait();
            }
            buffer
        } else {
            let buffer = Buffer::new(transfer.device())?;
            self.pool().made += 1;
            buffer
        };
        let done = work(&mut buffer);
        self.pool().idle.push_back(buffer);
        done
    }

    fn carry(
        &self,
        job: &job::Job<'_>,
        source: &dyn Source,
        scratch: &mut Vec<u64>,
        transfer: &Transfer,
        targets: [Target<'_>; 2],
    ) -> Result<()> {
        // f32 scales behind numbers of a byte each.
        let behind = job.numbers.len().next_multiple_of(size_of::<f32>());
        let length = behind + job.scales.len();
        if length <= BUFFER {
            return self.with(transfer, |buffer| {
                let (numbers, scales) = split(buffer.memory.bytes_mut(), job, behind)?;
                job.run(source, scratch, numbers, scales)?;
                buffer.send(transfer, &[(0..job.numbers.len(), targets[0]), (behind..length, targets[1])])
            });
        }
        // A tensor that cannot be divided: as it comes, then buffer by buffer.
        let mut memory = vec![0u64; length.div_ceil(size_of::<u64>())];
        let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let (numbers, scales) = split(memory, job, behind)?;
        job.run(source, scratch, numbers, scales)?;
        for (bytes, target) in [&*numbers, &*scales].into_iter().zip(targets) {
            for (at, part) in bytes.chunks(BUFFER).enumerate() {
                self.with(transfer, |buffer| {
                    if let Some(into) = buffer.memory.bytes_mut().get_mut(..part.len()) {
                        into.copy_from_slice(part);
                    }
                    let target = Target { offset: target.offset + at * BUFFER, ..target };
                    buffer.send(transfer, &[(0..part.len(), target)])
                })?;
            }
        }
        Ok(())
    }
}

/// Where a job's bytes go on the device.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// `None` if there are no bytes.
    lane: Option<&'a DeviceLane>,
    offset: usize,
}

impl<'a> Target<'a> {
    fn of(table: &Table, bytes: &Range<usize>, lanes: &'a [DeviceLane]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self { lane: None, offset: 0 });
        }
        let place = table.lanes().find(|(_, (_, lane))| lane.start <= bytes.start && bytes.end <= lane.end);
        let found = place.and_then(|(_, (dtype, lane))| {
            let on_device = lanes.iter().find(|other| other.tensor().dtype() == *dtype)?;
            Some(Self { lane: Some(on_device), offset: bytes.start - lane.start })
        });
        found.ok_or_else(|| Error::Msg(format!("bytes {bytes:?} of weights have no lane on the device")))
    }
}

impl Buffer {
    /// Begins to copy parts of it.
    fn send(&mut self, transfer: &Transfer, parts: &[(Range<usize>, Target<'_>)]) -> Result<()> {
        let sent = parts.iter().try_for_each(|(part, Target { lane, offset })| match lane {
            Some(lane) => transfer.copy_part(&self.memory, part.clone(), lane, *offset),
            None => Ok(()),
        });
        // Even behind half of it.
        self.read = Some(transfer.mark_read()?);
        sent
    }
}

/// The places of a job's numbers and scales in `memory`.
fn split<'m>(
    memory: &'m mut [u8],
    job: &job::Job<'_>,
    behind: usize,
) -> Result<(&'m mut [u8], &'m mut [u8])> {
    let short = || Error::Msg("a buffer is shorter than what is read into it; please report this".to_owned());
    let (numbers, rest) = memory.split_at_mut_checked(behind).ok_or_else(short)?;
    let numbers = numbers.get_mut(..job.numbers.len()).ok_or_else(short)?;
    Ok((numbers, rest.get_mut(..job.scales.len()).ok_or_else(short)?))
}

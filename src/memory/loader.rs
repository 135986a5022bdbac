//! From a checkpoint's files into main memory: many threads read at their own positions straight into place.
//!
//! What there is to read, and how, says [`job`]; here it is shared out. Must not know devices or nets. Callers: `store`,
//! `packing`, and `passage` for weights that go on to the device at once.

mod convert;
pub(super) mod job;
mod rounded;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use candle_core::{Error, Result};

use super::arena::Table;
use super::pace::Pace;
use crate::models::weights::{Layout, Source};
use job::Job;

/// Bytes that a thread reads at once: large enough for a disk's queue, small enough to spread over threads.
const READ: usize = 8 << 20;

/// Threads that read. More gain nothing: 16 of them copy 42 GB/s out of the page cache.
const THREADS: usize = 16;

/// How many threads this machine is worth.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(4, |cores| cores.get().clamp(2, THREADS))
}

/// Fills `memory` as `table` says; `progress` counts the bytes in place while it runs.
///
/// # Errors
/// A file cannot be read or ends early; a tensor cannot be converted; `pace` was stopped.
pub(super) fn fill(
    memory: &mut [u8],
    table: &Table,
    layout: &Layout,
    source: &dyn Source,
    progress: &AtomicU64,
    pace: &Pace,
) -> Result<()> {
    let jobs = job::list(table, layout, source, READ)?;
    share_out(place(memory, jobs)?, Vec::new, &|| true, |(job, numbers, scales), buffer| {
        pace.keep()?;
        job.run(source, buffer, numbers, scales)?;
        progress.fetch_add(job.bytes() as u64, Ordering::Relaxed);
        Ok(())
    })
}

/// A job with the memory of its numbers and of their scales.
type Placed<'j, 'm> = (Job<'j>, &'m mut [u8], &'m mut [u8]);

/// Gives each job its part of `memory`.
fn place<'j, 'm>(memory: &'m mut [u8], jobs: Vec<Job<'j>>) -> Result<Vec<Placed<'j, 'm>>> {
    let ranges = jobs
        .iter()
        .enumerate()
        .flat_map(|(index, job)| [(job.numbers.clone(), index, false), (job.scales.clone(), index, true)]);
    let mut ranges: Vec<_> = ranges.filter(|(range, ..)| !range.is_empty()).collect();
    ranges.sort_by_key(|(range, ..)| range.start);
    let mut placed: Vec<Placed<'j, 'm>> =
        jobs.into_iter().map(|job| (job, Default::default(), Default::default())).collect();
    let (mut rest, mut at) = (memory, 0);
    for (range, index, is_scales) in ranges {
        let outside = || Error::Msg(format!("bytes {range:?} of weights lie outside of their memory"));
        let gap = range.start.checked_sub(at).ok_or_else(outside)?;
        let (_, tail) = std::mem::take(&mut rest).split_at_mut_checked(gap).ok_or_else(outside)?;
        let (part, tail) = tail.split_at_mut_checked(range.len()).ok_or_else(outside)?;
        (rest, at) = (tail, range.end);
        if let Some((_, numbers, scales)) = placed.get_mut(index) {
            *(if is_scales { scales } else { numbers }) = part;
        }
    }
    Ok(placed)
}

/// How long the calling thread waits before it asks whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);

/// Has [`threads`] threads do `jobs`, the first ones first, each thread with something of its own from `begin`. The first error
/// ends it, and so does `go_on`, which the calling thread asks now and then.
///
/// # Errors
/// That of `work`; `go_on` said no.
pub(super) fn share_out<J: Send, S>(
    jobs: Vec<J>,
    begin: impl Fn() -> S + Sync,
    go_on: &dyn Fn() -> bool,
    work: impl Fn(J, &mut S) -> Result<()> + Sync,
) -> Result<()> {
    let threads = threads().min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let problem = Mutex::new(None);
    let give_up = |error| {
        problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        *jobs.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new().into_iter();
    };
    // Hung up when the last thread is done.
    let (running, done) = mpsc::channel::<()>();
    let run = |running: mpsc::Sender<()>| {
        let mut own = begin();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(job) = job else { break };
            if let Err(error) = work(job, &mut own) {
                give_up(error);
                break;
            }
        }
        drop(running);
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            let (run, running) = (&run, running.clone());
            scope.spawn(move || run(running));
        }
        drop(running);
        while done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            if !go_on() {
                give_up(Error::Msg("loading was given up".to_owned()));
            }
        }
    });
    match problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

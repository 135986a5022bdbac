//! The worker's promises: one outcome a job, nothing after it, no job lost, no storm, no dead worker.

mod ends;
mod fence;
mod intake;
mod shutdown;
mod statistics;

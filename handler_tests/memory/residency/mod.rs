//! What memory does with a schedule, on a device that counts.

mod bench;
mod pressure;
mod stays;

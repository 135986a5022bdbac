//! What memory does with a schedule, on a device that counts.

mod bench;
mod copies;
mod pressure;
mod stays;

//! One test binary; a module a theme.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cli;
mod config;
mod dummy_engine;
#[cfg(feature = "models")]
mod engine_real;
mod imaging;
mod input;
#[cfg(feature = "models")]
mod kernels;
mod local_api;
mod memory;
#[cfg(feature = "models")]
mod models;
mod output;
mod progress;
mod runpod_faults;
mod runpod_wire;
mod support;
mod worker;

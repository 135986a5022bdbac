//! Marquee: a serverless GPU worker that turns a phrase, a scene and a product photo into an advertisement.
//!
//! The folders are the data flow: [`source`] takes a job, [`input`] decides what it means, [`worker`] runs it on the
//! [`engine`]'s thread, [`progress`] and [`output`] turn what the engine says into JSON, and [`sink`] delivers it.

#[cfg(feature = "models")]
pub mod bench;
pub mod cli;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod http_client;
#[cfg(feature = "models")]
pub mod hub;
pub mod imaging;
pub mod input;
pub mod job;
pub mod memory;
#[cfg(feature = "models")]
pub mod models;
pub mod output;
pub mod progress;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod worker;

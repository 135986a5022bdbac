//! Freed memory on its way back to the driver.
//!
//! The driver takes a millisecond for each GB, on the thread that waits for it. Where a step has ended and the next one begins
//! with work of the processor, another thread waits.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use candle_core::Result as TensorResult;

use super::super::MemoryError;
use super::super::log::log_gpu_memory;
use super::super::schedule::{Departure, ModelId};
use super::Memory;

/// A thread that waits for freed memory.
pub(super) struct Settling {
    thread: JoinHandle<TensorResult<()>>,
    /// How much it waits for.
    bytes: u64,
}

impl Memory {
    /// What the timetable wants gone. Returns when it is freed, before it is back.
    pub(super) fn depart_behind(&mut self, due: Vec<Departure>) -> Result<(), MemoryError> {
        let mut gone = Vec::with_capacity(due.len());
        for departure in due {
            let models: Vec<ModelId> = departure.moves.iter().map(|step| step.model).collect();
            self.free_all(&departure.label, &models)?;
            gone.push((format!("After {} unload", departure.label), self.allocated()));
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.wait_settled()?;
        let (driver, span) = (Arc::clone(&self.driver), tracing::Span::current());
        let settle = move || {
            let _in_span = span.enter();
            driver.settle()?;
            let usage = driver.usage()?;
            for (label, allocated) in gone {
                let reserved = usage.map_or(allocated, |usage| usage.total.saturating_sub(usage.free));
                log_gpu_memory(&label, allocated, reserved);
            }
            Ok(())
        };
        match thread::Builder::new().name("settling".to_owned()).spawn(settle) {
            Ok(thread) => {
                self.settling = Some(Settling { thread, bytes: self.unsettled });
                Ok(())
            }
            // Without a thread this one waits.
            Err(_) => self.settle(),
        }
    }

    /// Waits until what was freed is back.
    pub(super) fn settle(&mut self) -> Result<(), MemoryError> {
        self.wait_settled()?;
        self.driver.settle().map_err(|source| MemoryError::of("the device", source))?;
        self.unsettled = 0;
        Ok(())
    }

    /// Waits for the other thread, if there is one.
    pub(super) fn wait_settled(&mut self) -> Result<(), MemoryError> {
        let Some(Settling { thread, bytes }) = self.settling.take() else { return Ok(()) };
        let settled = thread
            .join()
            .unwrap_or_else(|_| Err(candle_core::Error::Msg("the thread that waits for it died".to_owned())));
        settled.map_err(|source| MemoryError::of("the device", source))?;
        self.unsettled = self.unsettled.saturating_sub(bytes);
        Ok(())
    }

    /// Bytes that the driver may still count as taken.
    pub(super) fn unsettled(&mut self) -> Result<u64, MemoryError> {
        if self.settling.as_ref().is_some_and(|settling| settling.thread.is_finished()) {
            self.wait_settled()?;
        }
        Ok(self.unsettled)
    }
}

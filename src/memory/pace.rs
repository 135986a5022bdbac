//! How a read is held up and ended from another thread: by whoever needs the disk, the bus and the cores more.
//!
//! Knows nothing of what is read. Callers: the loader's and packing's threads keep to it; `reader` sets it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use candle_core::{Error, Result};

const GOING: u8 = 0;
const HELD: u8 = 1;
const STOPPED: u8 = 2;

/// Of one read; it begins at full speed.
#[derive(Debug, Default)]
pub struct Pace {
    state: AtomicU8,
    /// Taken to change the state and to wait for a change.
    turn: Mutex<()>,
    changed: Condvar,
}

impl Pace {
    /// Threads that keep to it wait from now on, each when its piece of work is done. A read that was stopped stays so.
    pub fn hold(&self) {
        self.change(GOING, HELD);
    }

    /// Ends [`Pace::hold`].
    pub fn go_on(&self) {
        self.change(HELD, GOING);
    }

    /// The read is to fail, held up or not.
    pub fn stop(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(STOPPED, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn change(&self, from: u8, to: u8) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// To be called before each piece of work: returns when it may be done.
    ///
    /// # Errors
    /// The read was stopped.
    pub fn keep(&self) -> Result<()> {
        if self.state.load(Ordering::Relaxed) == HELD {
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let held = |(): &mut ()| self.state.load(Ordering::Relaxed) == HELD;
            drop(self.changed.wait_while(turn, held).unwrap_or_else(PoisonError::into_inner));
        }
        match self.state.load(Ordering::Relaxed) {
            STOPPED => Err(Error::Msg("loading was stopped".to_owned())),
            _ => Ok(()),
        }
    }
}

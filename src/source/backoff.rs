//! How long to wait before asking again. Pure: no clock, no I/O; the worker's loop and the stop channel sleep.

use std::time::Duration;

use rand::RngExt;

/// A poll that the server held at least this long was a long poll: ask again at once.
const HELD: Duration = Duration::from_secs(1);
const EMPTY_FIRST: Duration = Duration::from_millis(50);
const EMPTY_MOST: Duration = Duration::from_secs(1);
const FAILURE_FIRST: Duration = Duration::from_millis(500);
const FAILURE_MOST: Duration = Duration::from_secs(30);

/// Bounded exponential waits with jitter, so that a fleet which lost its server together does not return together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    failure: Duration,
    empty: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Failures wait 0.5 s, doubling to 30 s; empties 50 ms, doubling to 1 s.
    pub fn new() -> Self {
        Self::starting_at(FAILURE_FIRST)
    }

    /// As [`Backoff::new`] with another first wait after a failure.
    pub fn starting_at(first: Duration) -> Self {
        Self { first, failure: first, empty: EMPTY_FIRST }
    }

    /// The wait after a failure: a doubling base plus up to half of it. Never below the base, so that a server which
    /// fails at once sees at most two requests a second, falling.
    pub fn after_failure(&mut self) -> Duration {
        let base = self.failure;
        self.failure = (base * 2).min(FAILURE_MOST);
        jittered(base)
    }

    /// The wait after an answer without a job that took `held_for`. Zero if the server held the request as a long
    /// poll; otherwise the server does not pace its workers and they pace themselves.
    pub fn after_empty(&mut self, held_for: Duration) -> Duration {
        self.failure = self.first;
        if held_for >= HELD {
            self.empty = EMPTY_FIRST;
            return Duration::ZERO;
        }
        let base = self.empty;
        self.empty = (base * 2).min(EMPTY_MOST);
        jittered(base)
    }

    /// A job arrived: the next wait is the first again.
    pub fn reset(&mut self) {
        *self = Self::starting_at(self.first);
    }
}

/// `base` plus up to half of it.
fn jittered(base: Duration) -> Duration {
    base.mul_f64(rand::rng().random_range(1.0..1.5))
}

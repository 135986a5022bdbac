//! What residency needs of a model's weights to move them: the seam between deciding and copying.
//!
//! Implemented over arenas for nets and by counters in tests. Must not know budgets or visits.

use candle_core::Result;

use super::pace::Pace;
use super::schedule::Size;
use crate::models::weights::Weights;

/// One model's weights, on disk and perhaps in host memory. Shared with the thread that reads.
pub trait Shelf: Send + Sync {
    /// How much it takes, and in which pieces it moves. Never changes, but for the host copy's bytes: what it takes at most
    /// until there is one, then what it takes.
    fn size(&self) -> Size;

    /// Whether there is a host copy.
    fn is_on_host(&self) -> bool;

    /// Makes the host copy, if there is none. Takes as long as the disk does; called on a thread of its own, at that thread's
    /// `pace`.
    ///
    /// # Errors
    /// The files cannot be read, host memory has no room, or `pace` was stopped.
    fn read(&self, pace: &Pace) -> Result<()>;

    /// Gives the host copy back, as soon as no upload reads it.
    fn forget(&self);

    /// The model on the device, of which nothing is there yet.
    fn arrival(&self) -> Box<dyn Arrival>;
}

/// A model on the device, or on its way there. Dropping it frees what has come, nets built on it aside.
pub trait Arrival: Send {
    /// Takes memory for `pieces` and begins to copy; does not wait, if there is a host copy, and else reads the files while
    /// `go_on`.
    ///
    /// # Errors
    /// The device has no room or is lost, the files cannot be read, `go_on` said no. Nothing of `pieces` came then.
    fn bring(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()>;

    /// What a net is built from, once all but the `streamed` pieces are there; takes the memory of a ring for those, which
    /// lives as long as the net. Computing that is asked for from now on waits for the copies.
    ///
    /// # Errors
    /// Something is missing, no room for the ring, the device is lost.
    fn weights(&mut self, streamed: &[usize]) -> Result<Weights>;

    /// Frees `pieces`. No net is built on them any more.
    ///
    /// # Errors
    /// The device is lost.
    fn free(&mut self, pieces: &[usize]) -> Result<()>;
}

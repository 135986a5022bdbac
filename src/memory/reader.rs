//! The thread that makes host copies, one after the other, while the engine computes.
//!
//! It stands aside while weights that are wanted at once come from their files. Caller: `residency`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Result;

use super::pace::Pace;
use super::schedule::ModelId;
use super::shelf::Shelf;

/// How long a wait goes on before it is asked whether it should.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads in the order of the requests.
pub(super) struct Reader {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is wanted and not begun, the next one first.
    queue: VecDeque<(ModelId, Arc<dyn Shelf>)>,
    /// What is being read.
    current: Option<(ModelId, Arc<Pace>)>,
    /// What has ended since somebody asked.
    done: Vec<Done>,
    held: bool,
    closed: bool,
}

/// A read that has ended.
pub(super) struct Done {
    pub(super) model: ModelId,
    pub(super) took: Duration,
    pub(super) result: Result<()>,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_current(&self, model: ModelId) -> bool {
        self.current.as_ref().is_some_and(|(current, _)| *current == model)
    }

    fn is_open(&self, model: ModelId) -> bool {
        self.is_current(model) || self.queue.iter().any(|(queued, _)| *queued == model)
    }

    fn take_from_queue(&mut self, model: ModelId) -> Option<(ModelId, Arc<dyn Shelf>)> {
        let at = self.queue.iter().position(|(queued, _)| *queued == model)?;
        self.queue.remove(at)
    }

    fn take_done(&mut self, model: ModelId) -> Option<Done> {
        let at = self.done.iter().position(|done| done.model == model)?;
        Some(self.done.swap_remove(at))
    }
}

/// How a wait for a read ended.
pub(super) enum Read {
    /// With the read's own end.
    Done(Done),
    /// Nobody asked for it.
    NeverAsked,
    /// The wait was given up.
    GivenUp,
}

/// While it lives the reader stands aside.
pub(super) struct Held(Arc<Desk>);

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.held = false;
        if let Some((_, pace)) = &state.current {
            pace.go_on();
        }
        self.0.changed.notify_all();
    }
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { desk: Arc::default(), thread: None }
    }

    /// Queues a read. Without a thread for it, [`Reader::wait`] says that nobody asked, and the caller reads itself.
    pub(super) fn ask(&mut self, model: ModelId, shelf: &Arc<dyn Shelf>) {
        if self.thread.is_none() {
            let desk = Arc::clone(&self.desk);
            let thread = std::thread::Builder::new().name("weights".to_owned());
            let Ok(thread) = thread.spawn(move || work(&desk)) else { return };
            self.thread = Some(thread);
        }
        let mut state = self.desk.state();
        if !state.is_open(model) {
            state.take_done(model);
            state.queue.push_back((model, Arc::clone(shelf)));
            self.desk.changed.notify_all();
        }
    }

    /// A read that has not begun may as well be the last one: its model is on the device.
    pub(super) fn defer(&self, model: ModelId) {
        let mut state = self.desk.state();
        if let Some(read) = state.take_from_queue(model) {
            state.queue.push_back(read);
        }
    }

    /// Holds the read that runs, and begins no other.
    pub(super) fn hold(&self) -> Held {
        let mut state = self.desk.state();
        state.held = true;
        if let Some((_, pace)) = &state.current {
            pace.hold();
        }
        Held(Arc::clone(&self.desk))
    }

    /// Whether the model's read has not ended.
    pub(super) fn is_open(&self, model: ModelId) -> bool {
        self.desk.state().is_open(model)
    }

    /// Waits for the model's read, which comes before all others, while `go_on`.
    pub(super) fn wait(&self, model: ModelId, go_on: &dyn Fn() -> bool) -> Read {
        let mut state = self.desk.state();
        if let Some(read) = state.take_from_queue(model) {
            state.queue.push_front(read);
        }
        loop {
            if let Some(done) = state.take_done(model) {
                return Read::Done(done);
            }
            if !self.is_served() || !state.is_open(model) {
                return Read::NeverAsked;
            }
            if !go_on() {
                return Read::GivenUp;
            }
            let waited = self.desk.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for all reads.
    pub(super) fn wait_for_all(&self) {
        let mut state = self.desk.state();
        while (state.current.is_some() || !state.queue.is_empty()) && self.is_served() {
            let waited = self.desk.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_served(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Nobody wants the model's host copy any more: when this returns, nobody makes it.
    pub(super) fn cancel(&self, model: ModelId) {
        let mut state = self.desk.state();
        state.take_from_queue(model);
        if let Some((_, pace)) = state.current.as_ref().filter(|(current, _)| *current == model) {
            pace.stop();
        }
        while state.is_current(model) && self.is_served() {
            let waited = self.desk.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.take_done(model);
    }

    /// Withdraws what has not begun.
    pub(super) fn withdraw(&self) {
        self.desk.state().queue.clear();
    }

    /// Reads that have ended since the last call and that nobody waited for.
    pub(super) fn ended(&self) -> Vec<Done> {
        std::mem::take(&mut self.desk.state().done)
    }
}

/// What the thread does.
fn work(desk: &Desk) {
    let mut state = desk.state();
    while !state.closed {
        let next = if state.held { None } else { state.queue.pop_front() };
        let Some((model, shelf)) = next else {
            state = desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let pace = Arc::new(Pace::default());
        state.current = Some((model, Arc::clone(&pace)));
        drop(state);
        let begun = Instant::now();
        let result = shelf.read(&pace);
        state = desk.state();
        state.current = None;
        state.done.push(Done { model, took: begun.elapsed(), result });
        desk.changed.notify_all();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        {
            let mut state = self.desk.state();
            state.closed = true;
            if let Some((_, pace)) = &state.current {
                pace.stop();
            }
            self.desk.changed.notify_all();
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it was a failed read for whoever waited.
            let _ = thread.join();
        }
    }
}

//! The thread that makes host copies, one after the other, while the engine computes.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Result;

use super::schedule::ModelId;
use super::shelf::Shelf;

/// How long a wait goes on before it is asked whether it should.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads in the order of the requests.
pub(super) struct Reader {
    jobs: Option<Sender<(ModelId, Arc<dyn Shelf>)>>,
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
    /// What is wanted and not done.
    open: Vec<ModelId>,
    /// What is being read.
    current: Option<Arc<dyn Shelf>>,
    done: HashMap<ModelId, (Duration, Result<()>)>,
    closed: bool,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a read ended.
pub(super) enum Read {
    /// It took so long.
    Done(Duration),
    /// It failed.
    Failed(candle_core::Error),
    /// Nobody asked for it.
    NeverAsked,
    /// The wait was given up.
    GivenUp,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { jobs: None, desk: Arc::default(), thread: None }
    }

    /// Queues a read. Without a thread for it, [`Reader::wait`] says that nobody asked, and the caller reads itself.
    pub(super) fn ask(&mut self, model: ModelId, shelf: &Arc<dyn Shelf>) {
        if self.thread.is_none() {
            self.start();
        }
        let Some(jobs) = &self.jobs else { return };
        let mut state = self.desk.state();
        if !state.open.contains(&model) && jobs.send((model, Arc::clone(shelf))).is_ok() {
            state.open.push(model);
            state.done.remove(&model);
        }
    }

    fn start(&mut self) {
        let (jobs, queue) = channel::<(ModelId, Arc<dyn Shelf>)>();
        let desk = Arc::clone(&self.desk);
        let run = move || {
            for (model, shelf) in queue {
                {
                    let mut state = desk.state();
                    // Withdrawn meanwhile.
                    if state.closed || !state.open.contains(&model) {
                        continue;
                    }
                    state.current = Some(Arc::clone(&shelf));
                }
                let begun = Instant::now();
                let result = shelf.read();
                let mut state = desk.state();
                state.current = None;
                state.open.retain(|open| *open != model);
                state.done.insert(model, (begun.elapsed(), result));
                desk.changed.notify_all();
            }
        };
        if let Ok(thread) = std::thread::Builder::new().name("weights".to_owned()).spawn(run) {
            self.thread = Some(thread);
            self.jobs = Some(jobs);
        }
    }

    /// Whether the model's read has not ended.
    pub(super) fn is_open(&self, model: ModelId) -> bool {
        self.desk.state().open.contains(&model)
    }

    /// Waits for the model's read while `go_on`.
    pub(super) fn wait(&self, model: ModelId, go_on: &dyn Fn() -> bool) -> Read {
        let mut state = self.desk.state();
        loop {
            match state.done.remove(&model) {
                Some((took, Ok(()))) => return Read::Done(took),
                Some((_, Err(error))) => return Read::Failed(error),
                None if !state.open.contains(&model) => return Read::NeverAsked,
                None if self.thread.as_ref().is_none_or(JoinHandle::is_finished) => return Read::NeverAsked,
                None if !go_on() => return Read::GivenUp,
                None => {}
            }
            let waited = self.desk.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Withdraws what has not begun. What is being read goes on: the next request is likely to want it.
    pub(super) fn withdraw(&self) {
        let mut state = self.desk.state();
        let reading = state.current.is_some();
        let first = state.open.first().copied().filter(|_| reading);
        state.open = first.into_iter().collect();
        state.done.clear();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs = None;
        {
            let mut state = self.desk.state();
            state.closed = true;
            if let Some(shelf) = &state.current {
                shelf.stop_reading();
            }
        }
        if let Some(thread) = self.thread.take() {
            // A panic in it was a failed read for whoever waited.
            let _ = thread.join();
        }
    }
}

//! The engine's thread. One OS thread owns the engine for the life of the process (a GPU context belongs to a thread),
//! runs one plan at a time, and survives a panic by building a fresh engine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};

use crate::engine::{Artifacts, Ctx, Engine, EngineError};
use crate::input::Plan;

/// Builds the engine, on its own thread: at start, and again after a panic.
pub type MakeEngine = Box<dyn Fn() -> Box<dyn Engine> + Send>;

/// Stack of the engine's thread. Image codecs and deep nets recurse more than a default thread allows for.
const STACK_BYTES: usize = 16 << 20;

struct Task {
    plan: Arc<Plan>,
    ctx: Ctx,
    reply: oneshot::Sender<Result<Artifacts, RunError>>,
}

/// Why the engine's thread gave no artifacts.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine said so.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine panicked; a fresh one is being built.
    #[error("the engine panicked: {0}")]
    Panic(String),
    /// The engine's thread is gone or was given up, which only the end of the process can mend.
    #[error("the engine's thread is gone; the worker is being replaced, send the job again")]
    Gone,
}

/// Handle on the engine's thread.
#[derive(Clone)]
pub struct Executor {
    tasks: Arc<Mutex<mpsc::UnboundedSender<Task>>>,
}

/// The right to run one plan: held from before the run until its end, so that waiting for the engine and a hanging
/// engine are two different things.
pub struct Turn<'a> {
    tasks: MutexGuard<'a, mpsc::UnboundedSender<Task>>,
}

impl Executor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn spawn(make: MakeEngine) -> std::io::Result<Self> {
        let (tasks, queue) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("engine".into())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&make, queue))?;
        Ok(Self { tasks: Arc::new(Mutex::new(tasks)) })
    }

    /// Waits until no other plan runs.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { tasks: self.tasks.lock().await }
    }
}

impl Turn<'_> {
    /// Gives the engine's thread up: it hangs. Whoever waits for a turn is told at once instead of waiting behind it.
    pub fn abandon(mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        *self.tasks = closed;
    }

    /// Runs `plan`; dropping the future does not stop the engine, the context's stop handle does.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(&self, plan: Arc<Plan>, ctx: Ctx) -> Result<Artifacts, RunError> {
        let (reply, answer) = oneshot::channel();
        self.tasks.send(Task { plan, ctx, reply }).map_err(|_| RunError::Gone)?;
        answer.await.map_err(|_| RunError::Gone)?
    }
}

fn serve(make: &MakeEngine, mut queue: mpsc::UnboundedReceiver<Task>) {
    // Built on first use: a worker that is only asked for its health pays for no engine.
    let mut engine: Option<Box<dyn Engine>> = None;
    while let Some(Task { plan, ctx, reply }) = queue.blocking_recv() {
        let run = catch_unwind(AssertUnwindSafe(|| engine.get_or_insert_with(make).run(&plan, &ctx)));
        let result = match run {
            Ok(result) => result.map_err(RunError::Engine),
            Err(panic) => {
                // Its invariants are unknown. Dropping it may panic again, which must not end the thread.
                let broken = engine.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                Err(RunError::Panic(words(panic.as_ref())))
            }
        };
        // Nobody listens if the worker gave this run up as hung.
        let _ = reply.send(result);
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

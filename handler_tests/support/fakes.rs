//! A scripted source, engine and sink: the worker's tests need no network, no pictures and no clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use marquee::config::Config;
use marquee::engine::{Artifacts, Ctx, Engine, EngineError};
use marquee::input::{InputLimits, Plan};
use marquee::job::{Delivery, Envelope, JobId, Outcome, StopHandle};
use marquee::progress::{ProgressReport, Statistics};
use marquee::sink::{DeliveryError, JobSink};
use marquee::source::{JobSource, Taken};
use marquee::worker::{End, Executor, Shared, Worker};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// What a sink was told, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A progress report began to be sent.
    Progress(f64),
    /// The same report was answered.
    Answered(f64),
    /// Completed, `failed:<kind>` or `stopped`; with the refresh flag.
    Delivered(String, bool),
}

/// Remembers what it is told.
pub struct RecordingSink {
    told: Mutex<Vec<Told>>,
    /// Progress waits here; delivery too once `slow_delivery` is taken.
    progress_gate: Semaphore,
    delivery_gate: Semaphore,
    changed: Notify,
}

impl RecordingSink {
    /// A sink that answers at once.
    pub fn new() -> Arc<Self> {
        Self::gated(Semaphore::MAX_PERMITS, Semaphore::MAX_PERMITS)
    }

    /// A sink that answers only so many reports and deliveries.
    pub fn gated(progress: usize, deliveries: usize) -> Arc<Self> {
        Arc::new(Self {
            told: Mutex::default(),
            progress_gate: Semaphore::new(progress),
            delivery_gate: Semaphore::new(deliveries),
            changed: Notify::new(),
        })
    }

    pub fn open_deliveries(&self) {
        self.delivery_gate.add_permits(1);
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// How the job ended; `None` if nothing was delivered, panics if twice.
    pub fn delivered(&self) -> Option<String> {
        let told = self.told();
        let mut ends = told.into_iter().filter_map(|told| match told {
            Told::Delivered(end, _) => Some(end),
            _ => None,
        });
        let end = ends.next();
        assert_eq!(ends.next(), None, "delivered twice");
        end
    }

    /// Waits until `matches` holds of what was told.
    pub async fn until(&self, matches: impl Fn(&[Told]) -> bool) {
        loop {
            let changed = self.changed.notified();
            if matches(&self.told()) {
                return;
            }
            changed.await;
        }
    }

    fn tell(&self, told: Told) {
        self.told.lock().unwrap().push(told);
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl JobSink for RecordingSink {
    async fn progress(&self, report: &ProgressReport) -> Result<(), DeliveryError> {
        self.tell(Told::Progress(report.percent));
        self.progress_gate.acquire().await.unwrap().forget();
        self.tell(Told::Answered(report.percent));
        Ok(())
    }

    async fn deliver(&self, outcome: &Outcome, refresh: bool) -> Result<(), DeliveryError> {
        let end = match outcome {
            Outcome::Completed(_) => "completed".to_owned(),
            Outcome::Failed(failure) => format!("failed:{}", failure.kind.as_str()),
            Outcome::Stopped(_) => "stopped".to_owned(),
        };
        self.tell(Told::Delivered(end, refresh));
        self.delivery_gate.acquire().await.unwrap().forget();
        Ok(())
    }
}

/// A small valid job.
pub fn job(id: &str, sink: &Arc<RecordingSink>) -> Envelope {
    Envelope {
        id: JobId::new(id).unwrap(),
        input: json!({"test_mode": true, "stop_step": 1, "width": 256, "height": 256, "bg_steps": 5, "seed": 1}),
        delivery: Delivery::Queued,
        time_limit: None,
        stop: StopHandle::new(),
        sink: sink.clone(),
    }
}

/// Gives scripted answers, then waits for shutdown (or is exhausted).
pub struct ScriptedSource {
    answers: VecDeque<Taken>,
    exhausts: bool,
    repeat: Option<fn() -> Taken>,
    pub takes: Arc<Mutex<Vec<(usize, bool)>>>,
}

impl ScriptedSource {
    /// Exhausted after `answers`.
    pub fn of(answers: impl IntoIterator<Item = Taken>) -> Self {
        Self { answers: answers.into_iter().collect(), exhausts: true, repeat: None, takes: Arc::default() }
    }

    /// Holds the take open after its answers, as a long poll does.
    pub fn held(mut self) -> Self {
        self.exhausts = false;
        self
    }

    /// Answers the same for ever.
    pub fn repeating(answer: fn() -> Taken) -> Self {
        Self { repeat: Some(answer), ..Self::of([]) }
    }
}

#[async_trait]
impl JobSource for ScriptedSource {
    async fn take(&mut self, want: usize, busy: bool, shutdown: &CancellationToken) -> Taken {
        self.takes.lock().unwrap().push((want, busy));
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        if let Some(repeat) = self.repeat {
            return repeat();
        }
        if self.exhausts {
            return Taken::Exhausted;
        }
        shutdown.cancelled().await;
        Taken::Nothing
    }
}

type Script = dyn Fn(&Plan, &Ctx) -> Result<Artifacts, EngineError> + Send + Sync;

/// Does what a closure says.
pub struct ScriptedEngine(Arc<Script>);

impl Engine for ScriptedEngine {
    fn run(&mut self, plan: &Plan, ctx: &Ctx) -> Result<Artifacts, EngineError> {
        (self.0)(plan, ctx)
    }
}

/// A worker around a scripted engine.
pub struct Rig {
    pub worker: Worker,
    /// Engines built so far.
    pub built: Arc<AtomicUsize>,
}

/// A configuration from pairs, with no statistics file.
pub fn config(pairs: &[(&str, &str)]) -> Config {
    Config::from_vars(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))).unwrap()
}

/// A worker whose engine runs `script`.
pub fn rig(
    pairs: &[(&str, &str)],
    script: impl Fn(&Plan, &Ctx) -> Result<Artifacts, EngineError> + Send + Sync + 'static,
) -> Rig {
    let config = config(pairs);
    let built = Arc::new(AtomicUsize::new(0));
    let (count, script): (_, Arc<Script>) = (built.clone(), Arc::new(script));
    let executor = Executor::spawn(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Box::new(ScriptedEngine(script.clone()))
    }))
    .unwrap();
    let worker = Worker::new(Shared {
        limits: InputLimits::from(&config.engine),
        statistics: Statistics::open(config.worker.statistics_file.clone()),
        config: config.worker,
        executor,
        bucket: None,
        metrics: Arc::default(),
    });
    Rig { worker, built }
}

/// Artifacts of a run that painted a background.
pub fn painted(plan: &Plan) -> Artifacts {
    let image = image::DynamicImage::new_rgb8(plan.width, plan.height);
    Artifacts { step1: Some(image.clone()), final_image: Some(image), ..Artifacts::default() }
}

/// Runs `jobs` through `rig` to the end.
pub async fn run_all(rig: Rig, jobs: Vec<Envelope>) -> End {
    let source = ScriptedSource::of([Taken::Jobs(jobs)]);
    rig.worker.run(Box::new(source), CancellationToken::new()).await
}

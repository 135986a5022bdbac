//! A RunPod endpoint that does what it is told and remembers what it saw.
//!
//! Two behaviours in one: scripted replies a route, used up in order; and, where no script is left, the platform's own
//! (takes are held until a job is pushed or the hold time is over, everything else is accepted). The tests and
//! `marquee-endpoint-sim` share it, and neither uses all of it.
#![allow(dead_code)]

mod wire;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use wire::{Recorded, Reply};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Take one job.
    Take,
    /// Take several.
    TakeBatch,
    /// Stop channel.
    Stop,
    /// Progress and results.
    Done,
    /// Heartbeat.
    Ping,
    /// Anything else.
    Other,
}

impl Route {
    pub(self) fn of(target: &str) -> Self {
        let path = target.split('?').next().unwrap_or_default();
        [
            ("/job-take/", Self::Take),
            ("/job-take-batch/", Self::TakeBatch),
            ("/job-stop/", Self::Stop),
            ("/job-done/", Self::Done),
            ("/ping/", Self::Ping),
        ]
        .into_iter()
        .find(|(part, _)| path.contains(part))
        .map_or(Self::Other, |(_, route)| route)
    }
}

/// The running simulator; dropping it closes every connection.
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    hold: Duration,
}

#[derive(Default)]
struct State {
    scripts: HashMap<Route, VecDeque<Reply>>,
    always: HashMap<Route, Reply>,
    jobs: VecDeque<Value>,
    requests: Vec<Recorded>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// Listens on a free port of the loopback; long polls are held for 30 s.
    pub async fn start() -> Self {
        Self::holding(Duration::from_secs(30)).await
    }

    /// As [`Endpoint::start`] with another hold time.
    pub async fn holding(hold: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Notify::new(), hold });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, shared.clone()));
        Self { address, shared, _server: server }
    }

    /// The variables of a worker of this endpoint.
    pub fn vars(&self) -> Vec<(String, String)> {
        vars(self.address)
    }

    /// Replies to the next requests on `route`, in order, before anything else is tried.
    pub fn script(&self, route: Route, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state().scripts.entry(route).or_default().extend(replies);
    }

    /// The reply to every request on `route` for which no script is left.
    pub fn always(&self, route: Route, reply: Reply) {
        self.shared.state().always.insert(route, reply);
    }

    /// Back to the platform's behaviour where no script is left.
    pub fn heal(&self, route: Route) {
        self.shared.state().always.remove(&route);
    }

    /// Queues a job object for the next take.
    pub fn push_job(&self, job: Value) {
        self.shared.state().jobs.push_back(job);
        self.shared.changed.notify_waiters();
    }

    /// Everything received so far, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// Everything received after the first `n` requests.
    pub fn since(&self, n: usize) -> Vec<Recorded> {
        self.shared.state().requests.iter().skip(n).cloned().collect()
    }

    /// Everything received on `route` so far.
    pub fn on(&self, route: Route) -> Vec<Recorded> {
        self.shared.state().requests.iter().filter(|r| r.route == route).cloned().collect()
    }

    /// Results (not progress) received so far.
    pub fn results(&self) -> Vec<Recorded> {
        self.on(Route::Done).into_iter().filter(|request| !request.is_progress()).collect()
    }

    /// Waits until `enough` likes what was received.
    ///
    /// # Panics
    /// After 20 s, with what was received instead.
    pub async fn until(&self, enough: impl Fn(&[Recorded]) -> bool) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if enough(&self.shared.state().requests) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), wait).await.is_err() {
            let seen: Vec<_> =
                self.requests().iter().map(|r| format!("{} {} {}", r.method, r.target, r.text())).collect();
            panic!("waited 20 s in vain; received: {seen:#?}");
        }
    }

    /// Waits, without limit, until more than `n` requests have come.
    pub async fn wait_past(&self, n: usize) {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.state().requests.len() > n {
                return;
            }
            changed.await;
        }
    }

    /// Waits for `n` requests on `route` and returns them.
    pub async fn wait_for(&self, route: Route, n: usize) -> Vec<Recorded> {
        self.until(|seen| seen.iter().filter(|r| r.route == route).count() >= n).await;
        self.on(route)
    }
}

/// The variables of a worker whose endpoint listens at `address`.
pub fn vars(address: SocketAddr) -> Vec<(String, String)> {
    let base = format!("http://{address}/v2/ep1");
    [
        ("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu=TEST")),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=TEST")),
        ("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID?gpu=TEST")),
        ("RUNPOD_AI_API_KEY", "secretkey".to_owned()),
        ("RUNPOD_POD_ID", "pod123".to_owned()),
        ("RUNPOD_ENDPOINT_ID", "ep1".to_owned()),
        ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The variables of a worker whose endpoint refuses connections.
pub async fn refusing() -> Vec<(String, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
    vars(listener.local_addr().expect("a bound listener has an address"))
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(connection(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while let Ok(Some(request)) = wire::read(&mut stream).await {
        let (route, batch) = (request.route, batch_size(&request.target));
        let reply = {
            let mut state = shared.state();
            state.requests.push(request);
            let scripted = state.scripts.get_mut(&route).and_then(VecDeque::pop_front);
            scripted.or_else(|| state.always.get(&route).cloned())
        };
        shared.changed.notify_waiters();
        let reply = if let Some(reply) = reply {
            reply
        } else {
            tokio::select! {
                reply = platform(&shared, route, batch) => reply,
                // A client that hangs up must not be handed a job.
                () = gone(&stream) => return,
            }
        };
        if !matches!(wire::write(&mut stream, reply).await, Ok(true)) {
            return;
        }
    }
}

/// What the platform itself would answer.
async fn platform(shared: &Shared, route: Route, batch: usize) -> Reply {
    let deadline = tokio::time::Instant::now() + shared.hold;
    match route {
        Route::Done | Route::Ping => Reply::status(200),
        Route::Other => Reply::status(404),
        Route::Stop => {
            tokio::time::sleep_until(deadline).await;
            Reply::status(204)
        }
        Route::Take | Route::TakeBatch => loop {
            let changed = shared.changed.notified();
            {
                let jobs = &mut shared.state().jobs;
                let n = batch.min(jobs.len());
                if n > 0 {
                    let mut taken: Vec<_> = jobs.drain(..n).collect();
                    return match route {
                        Route::Take => Reply::json(&taken.swap_remove(0)),
                        _ => Reply::json(&Value::Array(taken)),
                    };
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Reply::status(204);
            }
        },
    }
}

/// Resolves when the client has closed its side.
async fn gone(stream: &TcpStream) {
    let mut one = [0];
    while !matches!(stream.peek(&mut one).await, Ok(0) | Err(_)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn batch_size(target: &str) -> usize {
    target.split(['?', '&']).find_map(|part| part.strip_prefix("batch_size=")?.parse().ok()).unwrap_or(1)
}

//! What can go wrong between a worker and its endpoint, a row a fault, each with its outcome.

use std::time::{Duration, Instant};

use marquee::job::{Envelope, Failure, FailureKind, Outcome, StopReason};
use marquee::sink::DeliveryError;
use marquee::source::backoff::Backoff;
use marquee::source::runpod::fitness;
use marquee::source::{JobSource, TakeError, Taken};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::runpod_wire::{completed, job, jobs, source, take};
use crate::support::endpoint::{Endpoint, Recorded, Reply, Route, refusing};

/// What a take brings if the endpoint replies so.
async fn taken(reply: Reply) -> Taken {
    let endpoint = Endpoint::start().await;
    endpoint.script(Route::Take, [reply]);
    take(&mut source(endpoint.vars(), &[]), 1).await
}

/// The ids of the jobs in a batch that the endpoint answers with this body.
async fn ids(body: Value) -> Vec<String> {
    let endpoint = Endpoint::start().await;
    endpoint.script(Route::TakeBatch, [Reply::json(&body)]);
    let jobs = jobs(&mut source(endpoint.vars(), &[]), 2).await;
    jobs.iter().map(|job| job.id.to_string()).collect()
}

mod takes {
    use super::*;

    #[tokio::test]
    async fn no_content_and_bad_request_mean_no_job() {
        assert!(matches!(taken(Reply::status(204)).await, Taken::Nothing));
        assert!(matches!(taken(Reply::status(400)).await, Taken::Nothing));
    }

    #[tokio::test]
    async fn empty_answers_mean_no_job() {
        for body in ["", "null", "[]", " \n"] {
            let reply = Reply::status(200).with_header("Content-Type", "application/json").with_body(body);
            assert!(matches!(taken(reply).await, Taken::Nothing), "{body:?}");
        }
    }

    #[tokio::test]
    async fn too_many_requests_waits_as_told_or_five_seconds() {
        let wait = |taken| match taken {
            Taken::RateLimited(wait) => wait,
            _ => panic!("not rate limited"),
        };
        assert_eq!(wait(taken(Reply::status(429)).await), Duration::from_secs(5));
        let told = Reply::status(429).with_header("Retry-After", "7");
        assert_eq!(wait(taken(told).await), Duration::from_secs(7));
        let at_once = Reply::status(429).with_header("Retry-After", "0");
        assert_eq!(wait(taken(at_once).await), Duration::from_secs(1), "no request storm");
        let days = Reply::status(429).with_header("Retry-After", "864000");
        assert_eq!(wait(taken(days).await), Duration::from_secs(300), "no worker lost for days");
    }

    #[tokio::test]
    async fn server_error_is_a_failure_with_its_words() {
        let Taken::Failed(error) = taken(Reply::status(500).with_body("no database")).await else { panic!() };
        let text = error.to_string();
        assert!(text.ends_with("/v2/ep1/job-take/pod123 answered 500: no database"), "{text}");
    }

    #[tokio::test]
    async fn redirect_is_not_followed() {
        let away = Reply::status(302).with_header("Location", "http://127.0.0.1:9/");
        assert!(matches!(taken(away).await, Taken::Failed(TakeError::Status { status: 302, .. })));
    }

    #[tokio::test]
    async fn refused_reset_and_half_a_body_are_failures_of_transport() {
        let refused = take(&mut source(refusing().await, &[]), 1).await;
        let half = Reply::HalfBody(json!({ "id": "a", "input": {} }).to_string().into());
        for (what, taken) in
            [("refused", refused), ("reset", taken(Reply::Reset).await), ("half", taken(half).await)]
        {
            let Taken::Failed(TakeError::Transport { url, reason }) = taken else { panic!("{what}") };
            assert!(url.ends_with("/v2/ep1/job-take/pod123"), "no query in logs: {url}");
            assert!(!reason.contains("http"), "no query in logs: {reason}");
        }
    }

    #[tokio::test]
    async fn poll_that_is_never_answered_ends() {
        let endpoint = Endpoint::start().await;
        endpoint.script(Route::Take, [Reply::Hold]);
        let mut source = source(endpoint.vars(), &[]).with_hold(Duration::from_millis(200));
        assert!(matches!(take(&mut source, 1).await, Taken::Nothing));
    }

    #[tokio::test]
    async fn what_is_no_job_is_malformed() {
        for (body, words) in [
            ("<html>", "not JSON"),
            ("{\"id\": \"a\", ", "not JSON"),
            ("\"text\"", "not a job object"),
            ("{\"input\": {}}", "the job has no id"),
            ("{\"id\": \"\", \"input\": {}}", "job id is empty"),
            ("{\"id\": 1.5, \"input\": {}}", "the job's id is a fraction"),
            ("[{\"input\": {}}]", "the job has no id"),
        ] {
            let reply = Reply::status(200).with_header("Content-Type", "application/json").with_body(body);
            let Taken::Failed(TakeError::Malformed { reason, .. }) = taken(reply).await else {
                panic!("{body}")
            };
            assert!(reason.contains(words), "{body}: {reason}");
        }
    }

    #[tokio::test]
    async fn bad_element_does_not_cost_its_neighbours() {
        assert_eq!(ids(json!([{ "input": {} }, { "id": "b", "input": {} }, 7, null])).await, ["b"]);
    }

    #[tokio::test]
    async fn integer_id_becomes_its_text() {
        assert_eq!(ids(json!([{ "id": 5, "input": {} }])).await, ["5"]);
    }

    #[tokio::test]
    async fn missing_input_is_left_to_the_validator() {
        let Taken::Jobs(jobs) = taken(Reply::json(&json!({ "id": "a" }))).await else { panic!() };
        assert_eq!(jobs[0].input, Value::Null);
    }

    #[tokio::test]
    async fn unreadable_input_is_answered() {
        let endpoint = Endpoint::start().await;
        let body = r#"{"id": "a", "input": {"text": "\ud800"}}"#;
        endpoint.script(Route::Take, [Reply::json(&Value::Null).with_body(body)]);
        let mut source = source(endpoint.vars(), &[]);
        assert!(matches!(take(&mut source, 1).await, Taken::Nothing));
        let answer = endpoint.wait_for(Route::Done, 1).await[0].json();
        assert!(answer["error"].as_str().unwrap().contains("input cannot be read"), "{answer}");
        drop(source);
    }

    #[tokio::test]
    async fn wrong_content_type_does_not_cost_the_job() {
        let reply = Reply::status(200)
            .with_header("Content-Type", "text/plain")
            .with_body(r#"{"id": "a", "input": {"b": 1}}"#);
        let Taken::Jobs(jobs) = taken(reply).await else { panic!() };
        assert_eq!((jobs[0].id.as_str(), &jobs[0].input), ("a", &json!({ "b": 1 })));
    }

    #[tokio::test]
    async fn equal_ids_run_once_until_the_first_is_gone() {
        let endpoint = Endpoint::start().await;
        let twice = json!([{ "id": "a", "input": 1 }, { "id": "a", "input": 2 }]);
        endpoint.script(Route::TakeBatch, [Reply::json(&twice), Reply::json(&twice), Reply::json(&twice)]);
        let mut source = source(endpoint.vars(), &[]);
        let first = jobs(&mut source, 2).await;
        assert_eq!((first.len(), &first[0].input), (1, &json!(1)));
        assert!(matches!(take(&mut source, 2).await, Taken::Nothing), "already held");
        drop(first);
        assert_eq!(jobs(&mut source, 2).await.len(), 1, "free again");
    }

    #[tokio::test]
    async fn more_jobs_than_asked_for_are_kept() {
        let three = json!([{ "id": "a", "input": 1 }, { "id": "b", "input": 1 }, { "id": "c", "input": 1 }]);
        assert_eq!(ids(three.clone()).await, ["a", "b", "c"]);
        let Taken::Jobs(jobs) = taken(Reply::json(&three)).await else { panic!("array for a single take") };
        assert_eq!(jobs.len(), 3);
    }

    #[tokio::test]
    async fn shutdown_drops_a_silent_poll_at_once() {
        let endpoint = Endpoint::start().await;
        endpoint.script(Route::Take, [Reply::Hold]);
        let mut source = source(endpoint.vars(), &[]);
        let shutdown = CancellationToken::new();
        let pull = async {
            endpoint.wait_for(Route::Take, 1).await;
            shutdown.cancel();
        };
        let (taken, ()) = tokio::join!(source.take(1, false, &shutdown), pull);
        assert!(matches!(taken, Taken::Nothing));
        assert!(matches!(source.take(1, false, &shutdown).await, Taken::Nothing));
        assert_eq!(endpoint.on(Route::Take).len(), 1, "nothing is taken after shutdown");
    }

    #[tokio::test]
    async fn job_that_is_arriving_at_shutdown_is_returned() {
        let endpoint = Endpoint::start().await;
        let body = json!({ "id": "late", "input": {} }).to_string();
        endpoint.script(Route::Take, [Reply::Slow(Duration::from_millis(400), body.into())]);
        let mut source = source(endpoint.vars(), &[]);
        let shutdown = CancellationToken::new();
        let pull = async {
            endpoint.wait_for(Route::Take, 1).await;
            // The head is on its way; the body takes longer than a silent poll would be given.
            tokio::time::sleep(Duration::from_millis(50)).await;
            shutdown.cancel();
        };
        let (taken, ()) = tokio::join!(source.take(1, false, &shutdown), pull);
        let Taken::Jobs(jobs) = taken else { panic!("lost") };
        assert_eq!(jobs[0].id.as_str(), "late");
    }
}

mod results {
    use super::*;

    /// Delivers a result to an endpoint that replies so and returns what came of it, with the bodies received.
    async fn deliver(
        replies: Vec<Reply>,
        budget_s: &str,
        outcome: Outcome,
    ) -> (Result<(), DeliveryError>, Vec<String>) {
        let endpoint = Endpoint::start().await;
        endpoint.push_job(json!({ "id": "job-1", "input": {} }));
        endpoint.script(Route::Done, replies);
        let mut source = source(endpoint.vars(), &[("MARQUEE_RESULT_BUDGET_S", budget_s)]);
        let job = job(&mut source).await;
        let delivered = job.sink.deliver(&outcome, false).await;
        (delivered, endpoint.results().iter().map(Recorded::text).collect())
    }

    async fn delivered_after(replies: Vec<Reply>) {
        let attempts = replies.len() + 1;
        let (delivered, bodies) = deliver(replies, "20", completed(r#"{"x":1}"#)).await;
        delivered.unwrap();
        assert_eq!(bodies, vec![r#"{"output": {"x":1}}"#; attempts], "byte-identical");
    }

    #[tokio::test]
    async fn reset_after_send_is_sent_again() {
        delivered_after(vec![Reply::Reset]).await;
    }

    #[tokio::test]
    async fn server_errors_are_outlasted() {
        delivered_after(vec![Reply::status(500), Reply::status(502), Reply::status(503), Reply::status(500)])
            .await;
    }

    #[tokio::test]
    async fn timeout_statuses_are_sent_again() {
        delivered_after(vec![Reply::status(408), Reply::status(425)]).await;
    }

    #[tokio::test]
    async fn rate_limit_waits_as_told() {
        let began = Instant::now();
        delivered_after(vec![Reply::status(429).with_header("Retry-After", "1")]).await;
        assert!(began.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn rate_limit_may_name_a_date() {
        let began = Instant::now();
        // Dates have whole seconds: two ahead is at least one.
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(2));
        delivered_after(vec![Reply::status(429).with_header("Retry-After", &date)]).await;
        assert!(began.elapsed() >= Duration::from_millis(800));
    }

    #[tokio::test]
    async fn silence_is_cut_and_sent_again() {
        let (delivered, bodies) = deliver(vec![Reply::Hold], "2", completed("1")).await;
        delivered.unwrap();
        assert_eq!(bodies.len(), 2);
    }

    #[tokio::test]
    async fn spent_budget_gives_up_with_the_last_reason() {
        let (delivered, bodies) = deliver(vec![Reply::status(500); 1000], "1", completed("1")).await;
        let Err(DeliveryError::GaveUp { attempts, what: "result", last, .. }) = delivered else { panic!() };
        assert_eq!(attempts as usize, bodies.len());
        assert!((3..=20).contains(&attempts), "{attempts}");
        assert!(last.to_string().contains("500"));
    }

    #[tokio::test]
    async fn long_retry_after_does_not_outlast_the_budget() {
        let told = Reply::status(429).with_header("Retry-After", "3600");
        let (delivered, bodies) = deliver(vec![told], "1", completed("1")).await;
        delivered.unwrap();
        assert_eq!(bodies.len(), 2, "one more attempt at the end of the budget");
    }

    #[tokio::test]
    async fn too_large_is_refused_once_and_reported() {
        let (delivered, bodies) = deliver(vec![Reply::status(413)], "5", completed(r#"{"x":1}"#)).await;
        assert!(matches!(delivered, Err(DeliveryError::Refused { status: 413, .. })));
        let [result, report] = bodies.as_slice() else { panic!("{bodies:?}") };
        assert!(result.starts_with("{\"output\""));
        let report: Value = serde_json::from_str(report).unwrap();
        let error: Value = serde_json::from_str(report["error"].as_str().unwrap()).unwrap();
        assert_eq!(error["kind"], "result_too_large");
        assert!(error["error_message"].as_str().unwrap().contains("19 bytes with status 413"), "{error}");
    }

    #[tokio::test]
    async fn bad_request_on_a_large_body_counts_as_too_large() {
        let image = format!("\"{}\"", "A".repeat(1_000_000));
        let (delivered, bodies) = deliver(vec![Reply::status(400)], "5", completed(&image)).await;
        assert!(matches!(delivered, Err(DeliveryError::Refused { status: 400, .. })));
        assert_eq!(bodies.len(), 2);
        assert!(bodies[1].starts_with("{\"error\": "));
    }

    #[tokio::test]
    async fn other_refusals_are_final() {
        for status in [302, 400, 401, 404] {
            let (delivered, bodies) = deliver(vec![Reply::status(status)], "5", completed("1")).await;
            assert!(matches!(delivered, Err(DeliveryError::Refused { status: s, .. }) if s == status));
            assert_eq!(bodies.len(), 1, "{status}");
        }
    }

    #[tokio::test]
    async fn refused_failure_is_not_reported_by_another() {
        let failure = Outcome::Failed(Failure::new(FailureKind::Engine, "no"));
        let (delivered, bodies) = deliver(vec![Reply::status(413)], "5", failure).await;
        assert!(matches!(delivered, Err(DeliveryError::Refused { .. })));
        assert_eq!(bodies.len(), 1);
    }

    #[tokio::test]
    async fn progress_is_tried_once() {
        let endpoint = Endpoint::start().await;
        endpoint.push_job(json!({ "id": "job-1", "input": {} }));
        endpoint.script(Route::Done, [Reply::status(500), Reply::Reset, Reply::status(404), Reply::Hold]);
        let mut source = source(endpoint.vars(), &[]);
        let job = job(&mut source).await;
        let report = marquee::progress::ProgressReport {
            percent: 0.0,
            current_step: "step1_background",
            sub_step: String::new(),
            message: String::new(),
            eta_seconds: None,
            step_eta_seconds: None,
            system_metrics: Value::Null,
        };
        for n in 1..=4 {
            assert!(job.sink.progress(&report).await.is_err());
            assert_eq!(endpoint.on(Route::Done).len(), n);
        }
    }
}

mod stop_channel {
    use super::*;

    fn stop(ids: &Value) -> Reply {
        Reply::json(&json!({ "jobsToStop": ids }))
    }

    /// Bounded: a channel that closed would leave the test waiting for ever.
    async fn stopped(job: &Envelope) -> StopReason {
        timeout(Duration::from_secs(20), job.stop.stopped()).await.expect("the stop arrives")
    }

    #[tokio::test]
    async fn named_job_is_stopped_and_its_neighbour_is_not() {
        let endpoint = Endpoint::start().await;
        for id in ["a", "b"] {
            endpoint.push_job(json!({ "id": id, "input": {} }));
        }
        endpoint.always(Route::Stop, Reply::status(204));
        let mut source = source(endpoint.vars(), &[]);
        let jobs = jobs(&mut source, 2).await;
        endpoint.script(Route::Stop, [stop(&json!([7, "unknown", "b"]))]);
        assert_eq!(stopped(&jobs[1]).await, StopReason::Requested);
        assert_eq!(jobs[0].stop.reason(), None);
    }

    #[tokio::test]
    async fn finished_job_is_not_stopped_again_when_its_id_returns() {
        let endpoint = Endpoint::start().await;
        endpoint.always(Route::Stop, Reply::status(204));
        let mut source = source(endpoint.vars(), &[]);
        endpoint.push_job(json!({ "id": "a", "input": {} }));
        drop(job(&mut source).await);
        endpoint.script(Route::Stop, [stop(&json!(["a"]))]);
        let stops = endpoint.on(Route::Stop).len();
        // The poll after the one that named the job: the name has been dealt with.
        endpoint.wait_for(Route::Stop, stops + 2).await;
        endpoint.push_job(json!({ "id": "a", "input": {} }));
        assert_eq!(job(&mut source).await.stop.reason(), None);
    }

    #[tokio::test]
    async fn faults_do_not_close_the_channel() {
        let endpoint = Endpoint::start().await;
        endpoint.push_job(json!({ "id": "a", "input": {} }));
        let nonsense = Reply::json(&Value::Null).with_body("<html>");
        endpoint.script(Route::Stop, [nonsense, stop(&json!(["a"]))]);
        let mut source = source(endpoint.vars(), &[]);
        let job = job(&mut source).await;
        assert_eq!(stopped(&job).await, StopReason::Requested);
    }
}

mod heartbeat {
    use super::*;

    #[tokio::test]
    async fn down_then_up_goes_on_and_costs_no_job() {
        let endpoint = Endpoint::start().await;
        endpoint.push_job(json!({ "id": "a", "input": {} }));
        endpoint.script(Route::Ping, [Reply::Reset, Reply::status(500)]);
        let mut source = source(endpoint.vars(), &[("RUNPOD_PING_INTERVAL", "1000")]);
        let job = job(&mut source).await;
        job.sink.deliver(&completed("1"), false).await.unwrap();
        assert!(endpoint.wait_for(Route::Ping, 3).await.len() >= 3);
        assert_eq!(job.stop.reason(), None);
    }
}

mod pace {
    use super::*;

    #[test]
    fn failing_server_sees_at_most_two_requests_a_second_and_fewer_later() {
        for _ in 0..200 {
            let mut backoff = Backoff::new();
            let waits: Vec<_> = (0..12).map(|_| backoff.after_failure()).collect();
            assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(500)), "{waits:?}");
            assert!(
                waits[11] >= Duration::from_secs(30) && waits[11] <= Duration::from_secs(45),
                "{waits:?}"
            );
            assert!(waits[0] < waits[3] && waits[3] < waits[6], "{waits:?}");
        }
    }

    #[test]
    fn waits_differ_from_worker_to_worker() {
        let first: Vec<_> = (0..20).map(|_| Backoff::new().after_failure()).collect();
        assert!(first.iter().any(|wait| *wait != first[0]));
    }

    #[test]
    fn long_poll_is_asked_again_at_once_and_an_instant_one_is_not() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after_empty(Duration::from_secs(1)), Duration::ZERO);
        let waits: Vec<_> = (0..10).map(|_| backoff.after_empty(Duration::from_millis(1))).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(75), "{waits:?}");
        assert!(waits[9] >= Duration::from_secs(1) && waits[9] <= Duration::from_millis(1500), "{waits:?}");
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..8 {
            backoff.after_failure();
            backoff.after_empty(Duration::ZERO);
        }
        backoff.reset();
        assert!(backoff.after_failure() < Duration::from_secs(1));
        assert!(backoff.after_empty(Duration::ZERO) < Duration::from_millis(100));
    }
}

mod unfit {
    use std::fs;
    use std::path::Path;

    use super::*;

    const GIB: u64 = 1 << 30;

    /// A root with 8 GiB of free host memory and these files besides.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n");
        for (path, text) in [meminfo].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn available(files: &[(&str, &str)]) -> u64 {
        fitness::available_memory(root(files).path()).unwrap()
    }

    #[test]
    fn memory_is_what_host_and_cgroup_leave() {
        assert_eq!(available(&[]), 8 * GIB);
        let v2 = |max| {
            [
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", max),
                ("sys/fs/cgroup/memory.current", "2147483648\n"),
                ("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 1073741824\n"),
            ]
        };
        assert_eq!(available(&v2("4294967296\n")), 3 * GIB, "cache is not use");
        assert_eq!(available(&v2("max\n")), 8 * GIB);
        assert_eq!(available(&v2("1099511627776\n")), 8 * GIB, "a limit above the host");
        let v1 = [
            ("proc/self/cgroup", "5:cpu:/docker/x\n4:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"),
        ];
        assert_eq!(available(&v1), GIB);
    }

    #[test]
    fn too_little_memory_is_named_as_the_sdk_names_it() {
        let root = root(&[]);
        assert_eq!(fitness::memory(8.0, root.path()), Ok(()));
        let failure = fitness::memory(8.5, root.path()).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "_memory_check: Insufficient memory: 8.00GB available, 8.5GB required"
        );
        assert_eq!(fitness::memory(9999.0, Path::new("/nowhere")), Ok(()), "unknown is not unfit");
    }

    #[test]
    fn full_disk_is_unfit() {
        assert_eq!(fitness::disk(0.0, "/"), Ok(()));
        assert_eq!(fitness::disk(100.1, "/").unwrap_err().check, "_disk_check");
    }

    #[tokio::test]
    async fn gpu_program_must_list_a_gpu_if_it_is_there() {
        fitness::gpu_with("/nowhere/nvidia-smi").await.unwrap();
        // `echo --list-gpus` succeeds and lists none; `false` fails.
        for program in ["echo", "false"] {
            let reason = fitness::gpu_with(program).await.unwrap_err();
            assert!(reason.contains("lists no GPU"), "{reason}");
        }
    }
}

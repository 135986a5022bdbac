//! Two thousand jobs through the real binary: every one answered, memory flat.

use serde_json::json;

use super::{is_result, marquee, terminate};
use crate::support::endpoint::Endpoint;

/// Growth allowed between job 200 and job 2,000, bytes: the allocator's own noise.
const GROWTH: u64 = 12 << 20;

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_thousand_jobs_leave_no_trace_in_memory() {
    let endpoint = Endpoint::start().await;
    let home = tempfile::tempdir().unwrap();
    for n in 0..2000 {
        // Every kind of ending: most complete, some are refused.
        let width = if n % 50 == 49 { 17 } else { 256 };
        endpoint.push_job(json!({
            "id": format!("soak-{n}"),
            "input": {"test_mode": true, "text_content": format!("Sale {n}"), "width": width, "height": 256, "seed": n,
                      "return_intermediate": false, "output_format": "jpeg"},
        }));
    }
    let mut command = marquee(home.path());
    command
        .envs(endpoint.vars())
        .env("MARQUEE_PROGRESS_INTERVAL_MS", "60000")
        .env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true");
    command.stdout(std::process::Stdio::null());
    let mut worker = command.spawn().unwrap();
    let pid = worker.id().unwrap();
    let (mut seen, mut answered, mut refused, mut early) = (0, 0, 0, 0);
    while answered < 2000 {
        endpoint.wait_past(seen).await;
        for request in endpoint.since(seen) {
            seen += 1;
            if is_result(&request) {
                answered += 1;
                refused += usize::from(request.json().get("error").is_some());
            }
        }
        if early == 0 && answered >= 200 {
            early = resident(pid);
        }
    }
    let late = resident(pid);
    terminate(&worker);
    assert_eq!(worker.wait().await.unwrap().code(), Some(0));
    assert_eq!(refused, 40);
    assert!(late < early + GROWTH, "{early} bytes after 200 jobs, {late} after 2,000");
}

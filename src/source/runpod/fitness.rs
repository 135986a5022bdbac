//! Checks before the first take: an unfit worker says so and exits instead of failing job after job.
//!
//! Checks bear the SDK's names, because the platform shows them. Called by the program once; knows no endpoint.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::FitnessConfig;

const GIB: f64 = (1u64 << 30) as f64;
/// `nvidia-smi` takes seconds on a cold driver.
const GPU_TIMEOUT: Duration = Duration::from_secs(30);
/// The SDK's probe.
const PROBE: &str = "8.8.8.8:53";

/// Why this worker must not take jobs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct FitnessFailure {
    /// The SDK's name of the check.
    pub check: &'static str,
    /// Found and expected, in words.
    pub reason: String,
}

/// Runs the checks that `config` asks for, in the SDK's order.
///
/// # Errors
/// The first [`FitnessFailure`].
pub async fn check(config: &FitnessConfig) -> Result<(), FitnessFailure> {
    if !config.skip_gpu {
        gpu().await.map_err(|reason| FitnessFailure { check: "_gpu_health_check", reason })?;
    }
    if !config.skip_system {
        memory(config.min_memory_gib, Path::new("/"))?;
        disk(config.min_disk_percent, "/")?;
        if let Some(limit) = config.network_timeout {
            network(limit).await?;
        }
    }
    Ok(())
}

/// `root` is `/`, or a folder that holds `proc/` and `sys/` as a test wants them.
///
/// # Errors
/// If less than `min_gib` GiB can still be allocated.
pub fn memory(min_gib: f64, root: &Path) -> Result<(), FitnessFailure> {
    // A system that does not say is not unfit.
    let Some(available) = available_memory(root) else { return Ok(()) };
    let gib = available as f64 / GIB;
    if gib >= min_gib {
        return Ok(());
    }
    Err(FitnessFailure {
        check: "_memory_check",
        reason: format!("Insufficient memory: {gib:.2}GB available, {min_gib}GB required"),
    })
}

/// Bytes that this process can still allocate: what the host has, or what its cgroup leaves if that is less. The SDK
/// looks at the host alone and passes containers that are killed at their first image.
pub fn available_memory(root: &Path) -> Option<u64> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let host = info.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    })? * 1024;
    Some(cgroup_headroom(root).map_or(host, |headroom| headroom.min(host)))
}

/// Limit minus use of this process's cgroup; `None` without a limit. Page cache that the kernel can drop is not use.
fn cgroup_headroom(root: &Path) -> Option<u64> {
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let (_, entry) = line.split_once(':')?;
        let (controllers, path) = entry.split_once(':')?;
        let (mount, limit, used, cache) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
            c if c.split(',').any(|c| c == "memory") => (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            _ => return None,
        };
        // Inside a container the group's path is often that of the host, while the mount shows the group itself.
        let mount = root.join(mount);
        [mount.join(path.trim_start_matches('/')), mount].into_iter().find_map(|group| {
            // "max" is no number: no limit at this level.
            let limit = number(group.join(limit))?;
            let used = number(group.join(used))?;
            let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let cached = stat
                .lines()
                .find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok())
                .unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cached)))
        })
    })
}

/// # Errors
/// If less than `min_percent` of the file system at `path` is free.
pub fn disk(min_percent: f64, path: &str) -> Result<(), FitnessFailure> {
    let failure = |reason| FitnessFailure { check: "_disk_check", reason };
    let stat = rustix::fs::statvfs(path).map_err(|error| failure(format!("cannot read {path}: {error}")))?;
    if stat.f_blocks == 0 {
        return Ok(());
    }
    let percent = stat.f_bavail as f64 * 100.0 / stat.f_blocks as f64;
    if percent >= min_percent {
        return Ok(());
    }
    Err(failure(format!("Insufficient disk space on {path}: {percent:.1}% free, {min_percent}% required")))
}

async fn network(limit: Duration) -> Result<(), FitnessFailure> {
    let reason = match timeout(limit, TcpStream::connect(PROBE)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", limit.as_secs_f64()),
    };
    Err(FitnessFailure { check: "_network_check", reason: format!("cannot reach {PROBE}: {reason}") })
}

/// A host that has `nvidia-smi` was meant to have a GPU. Without the program there is nothing to check: a CPU worker.
async fn gpu() -> Result<(), String> {
    gpu_with("nvidia-smi").await
}

/// As the GPU check, with another program in the place of `nvidia-smi`.
///
/// # Errors
/// In words, if the program is there and lists no GPU within 30 s.
pub async fn gpu_with(program: &str) -> Result<(), String> {
    let listing = Command::new(program).arg("--list-gpus").kill_on_drop(true).output();
    let output = match timeout(GPU_TIMEOUT, listing).await {
        Err(_) => return Err(format!("{program} did not answer within {} s", GPU_TIMEOUT.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(Err(error)) => return Err(format!("cannot run {program}: {error}")),
        Ok(Ok(output)) => output,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.lines().any(|line| line.starts_with("GPU ")) {
        return Ok(());
    }
    let said = if output.stderr.is_empty() { text } else { String::from_utf8_lossy(&output.stderr) };
    Err(format!("{program} lists no GPU ({}): {}", output.status, said.trim()))
}

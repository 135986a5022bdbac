#!/usr/bin/env python3
"""Measures Marquee and the official RunPod SDK against the same recording server and prints JSON.

    scripts/bench_worker.py [--only sdk|marquee] [--marquee target/release/marquee] [--rows startup,gap,...]

Needs Python 3.10 or later and nothing else; the SDK goes into a virtual environment (--venv), which pip fills from the
package index. Both sides get the same environment; RUNPOD_LOG_LEVEL=ERROR keeps logging out of the figures. Progress is
printed to standard error. A full run takes about three minutes, most of it the SDK's own waits.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

SDK_VERSION = "1.12.0"
ROOT = Path(__file__).resolve().parent.parent
INPUT = {"test_mode": True, "stop_step": 1, "width": 256, "height": 256, "bg_steps": 5}

# What a user of the SDK would write for a job without work. `async def`: with `def` the SDK blocks its own loop.
HANDLER = """
import runpod
async def handler(job):
    for done in range(int(job["input"].get("bg_steps", 0))):
        runpod.serverless.progress_update(job, {"done": done})
    return {"ok": True}
runpod.serverless.start({"handler": handler})
"""


@dataclass
class Request:
    """One request, with the time its last byte arrived (monotonic seconds)."""

    route: str
    target: str
    body: bytes
    at: float

    @property
    def job(self):
        return self.target.split("?")[0].split("&")[0].rsplit("/", 1)[-1]

    @property
    def is_progress(self):
        return b'"IN_PROGRESS"' in self.body[:200]


@dataclass
class Endpoint:
    """A RunPod endpoint on the loopback that records what it receives."""

    jobs: list = field(default_factory=list)
    fail_all: bool = False
    # Faults for the result posts of each job, in order: "reset", 429, 500.
    result_faults: tuple = ()
    hold_s: float = 30.0
    seen: list = field(default_factory=list)
    accepted: dict = field(default_factory=dict)
    _posts: dict = field(default_factory=dict)

    async def __aenter__(self):
        self._changed = asyncio.Condition()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    def on(self, route):
        return [r for r in self.seen if r.route == route]

    async def until(self, enough, limit_s):
        """True once `enough()` holds, False after `limit_s`."""
        async def wait():
            async with self._changed:
                await self._changed.wait_for(enough)
        try:
            await asyncio.wait_for(wait(), limit_s)
            return True
        except asyncio.TimeoutError:
            return False

    async def _connection(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                target = head.split(" ", 2)[1]
                length = next((int(l.split(":")[1]) for l in head.split("\r\n") if l.lower().startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                path = target.split("?")[0]
                route = next((r for r in ("job-take-batch", "job-take", "job-stop", "job-done", "ping") if f"/{r}/" in path), "other")
                request = Request(route, target, body, time.monotonic())
                self.seen.append(request)
                async with self._changed:
                    self._changed.notify_all()
                status, answer = await self._reply(request)
                if status == "reset":
                    # Linger 0 turns the close into RST.
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return
                extra = "Retry-After: 1\r\n" if status == 429 else ""
                extra += "" if status == 204 else f"Content-Length: {len(answer)}\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}\r\n".encode() + answer)
                await writer.drain()
        # Cancelled: a held poll at the end of a row.
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _reply(self, request):
        if self.fail_all:
            return 500, b""
        if request.route in ("job-take", "job-take-batch"):
            if self.jobs:
                job = json.dumps(self.jobs.pop(0)).encode()
                return 200, job if request.route == "job-take" else b"[" + job + b"]"
            await asyncio.sleep(self.hold_s)
            return 204, b""
        if request.route == "job-stop":
            await asyncio.sleep(self.hold_s)
            return 204, b""
        if request.route == "job-done" and not request.is_progress:
            n = self._posts[request.job] = self._posts.get(request.job, 0) + 1
            if n <= len(self.result_faults):
                return self.result_faults[n - 1], b""
            self.accepted.setdefault(request.job, request)
            async with self._changed:
                self._changed.notify_all()
        return 200, b""


class Side:
    """One of the two workers."""

    def __init__(self, name, command):
        self.name, self.command = name, command

    def spawn(self, endpoint, home, **extra):
        base = f"http://127.0.0.1:{endpoint.port}/v2/ep1"
        env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=TEST",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=TEST",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=TEST",
            "RUNPOD_AI_API_KEY": "secretkey",
            "RUNPOD_POD_ID": "pod123",
            "RUNPOD_ENDPOINT_ID": "ep1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_LOG_LEVEL": "ERROR",
            **extra,
        }
        log = open(Path(home) / f"{self.name}.log", "ab")
        return subprocess.Popen(self.command, env=env, cwd=home, stdout=log, stderr=log, start_new_session=True)


def kill(process):
    """The whole group: the SDK's heartbeat is a process of its own that outlives its parent."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def tree(pid):
    """`pid` and its descendants."""
    pids = [pid]
    for parent in pids:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                pids += [int(p) for p in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
        except OSError:
            continue
    return pids


def pss_mb(pid):
    """Proportional set size of a process tree, in MB (10^6 bytes)."""
    total = 0
    for member in tree(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total / 1e6


def job(n):
    return {"id": f"job-{n}", "input": INPUT}


def summary(values, unit):
    if not values:
        return {"error": "nothing measured"}
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
        "unit": unit,
    }


async def startup(side, home):
    """Spawn to first take on the wire."""
    times = []
    for _ in range(7):
        async with Endpoint() as endpoint:
            began = time.monotonic()
            process = side.spawn(endpoint, home)
            if await endpoint.until(lambda: endpoint.on("job-take"), 20):
                times.append(endpoint.on("job-take")[0].at - began)
            kill(process)
    return summary(times, "s")


async def gap(side, home):
    """Result received to next take received, ten jobs one after another."""
    count = 10
    async with Endpoint(jobs=[job(n) for n in range(count)]) as endpoint:
        process = side.spawn(endpoint, home)
        await endpoint.until(lambda: len(endpoint.accepted) == count and len(endpoint.on("job-take")) > count, 60)
        kill(process)
        takes = [r.at for r in endpoint.on("job-take")]
        gaps = [
            min((at for at in takes if at > result.at), default=float("nan")) - result.at
            for result in endpoint.accepted.values()
        ]
        outputs = sum(b'"output"' in r.body[:20] for r in endpoint.accepted.values())
        return {**summary([g for g in gaps if g == g], "s"), "jobs_with_output": outputs}


async def progress(side, home):
    """Progress posts that arrive after their job's result: 20 jobs of 5 updates."""
    count = 20
    async with Endpoint(jobs=[job(n) for n in range(count)]) as endpoint:
        process = side.spawn(endpoint, home, MARQUEE_PROGRESS_INTERVAL_MS="0")
        await endpoint.until(lambda: len(endpoint.accepted) == count, 90)
        # Whatever is still on its way.
        await asyncio.sleep(1.5)
        kill(process)
        updates = [r for r in endpoint.on("job-done") if r.is_progress]
        late = [r for r in updates if r.job in endpoint.accepted and r.at > endpoint.accepted[r.job].at]
        return {
            "jobs": len(endpoint.accepted),
            "updates_received": len(updates),
            "updates_after_result": len(late),
            "jobs_with_late_update": len({r.job for r in late}),
        }


async def results_lost(side, home):
    """Results that never arrive after one fault each."""
    lost = {}
    for name, faults in (("reset", ("reset",)), ("429", (429,)), ("500x3", (500, 500, 500))):
        async with Endpoint(jobs=[job(0)], result_faults=faults) as endpoint:
            process = side.spawn(endpoint, home)
            arrived = await endpoint.until(lambda: endpoint.accepted, 15)
            kill(process)
            lost[name] = 0 if arrived else 1
    return {**lost, "of_jobs_each": 1}


async def sigterm(side, home):
    """Exit after SIGTERM while idle, the take held open by the server for 30 s."""
    async with Endpoint() as endpoint:
        process = side.spawn(endpoint, home)
        await endpoint.until(lambda: endpoint.on("job-take"), 20)
        await asyncio.sleep(2.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() - began < 95:
            await asyncio.sleep(0.002)
        took = time.monotonic() - began
        code = process.poll()
        kill(process)
        return {"seconds": round(took, 4), "exit_code": code}


async def memory(side, home):
    """Idle, take held open, 3 s after it was sent."""
    async with Endpoint() as endpoint:
        process = side.spawn(endpoint, home)
        await endpoint.until(lambda: endpoint.on("job-take"), 20)
        await asyncio.sleep(3)
        result = {"pss_mb": round(pss_mb(process.pid), 2), "processes": len(tree(process.pid))}
        kill(process)
        return result


async def storm(side, home):
    """Requests to a server that answers everything with 500 at once, in 10 s from the first take."""
    async with Endpoint(fail_all=True) as endpoint:
        process = side.spawn(endpoint, home)
        await endpoint.until(lambda: endpoint.on("job-take"), 20)
        await asyncio.sleep(10)
        kill(process)
        first = endpoint.on("job-take")[0].at
        window = lambda requests, a, b: sum(a <= r.at - first < b for r in requests)
        takes = endpoint.on("job-take")
        return {
            "takes_per_s": round(window(takes, 0, 10) / 10, 2),
            "takes_per_s_in_the_first_2_s": round(window(takes, 0, 2) / 2, 2),
            "takes_per_s_in_the_last_5_s": round(window(takes, 5, 10) / 5, 2),
            "all_requests_per_s": round(window(endpoint.seen, 0, 10) / 10, 2),
        }


ROWS = {
    "spawn_to_first_take": startup,
    "result_to_next_take": gap,
    "progress_after_result": progress,
    "results_lost": results_lost,
    "exit_after_sigterm_idle": sigterm,
    "idle_memory": memory,
    "failing_server": storm,
}


def sdk(venv):
    python = venv / "bin/python"
    if not python.exists():
        print(f"creating {venv} with runpod=={SDK_VERSION} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"runpod=={SDK_VERSION}"], check=True, stdout=sys.stderr)
    handler = venv / "bench_handler.py"
    handler.write_text(HANDLER)
    return Side("sdk", [str(python), str(handler)])


def device():
    cpu = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["sdk", "marquee"])
    parser.add_argument("--marquee", type=Path, default=ROOT / "target/release/marquee")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-runpod")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated: " + ", ".join(ROWS))
    args = parser.parse_args()
    rows = args.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"unknown rows {unknown}")
    sides = []
    if args.only != "sdk":
        if not args.marquee.exists():
            parser.error(f"{args.marquee} does not exist: run `cargo build --release`, or pass --only sdk")
        sides.append(Side("marquee", [str(args.marquee.resolve())]))
    if args.only != "marquee":
        sides.append(sdk(args.venv.absolute()))
    report = {"device": device(), "sdk_version": SDK_VERSION}
    with tempfile.TemporaryDirectory() as home:
        for row in rows:
            report[row] = {"what": ROWS[row].__doc__}
            for side in sides:
                print(f"{row}: {side.name} …", file=sys.stderr)
                report[row][side.name] = asyncio.run(ROWS[row](side, home))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Drives every call of RunPod's official Python client, unmodified, against `marquee serve`.

    scripts/check_python_client.py                          starts target/release/marquee
    scripts/check_python_client.py --binary PATH            starts another binary (it gets `serve --host 127.0.0.1 --port 0`)
    scripts/check_python_client.py --url http://HOST:PORT   uses a server that runs already (its queue must be idle)

Prints one JSON object with a row a call; exits with 1 if any failed. The client is installed into a virtual environment
below `target/` the first time.
"""

import argparse
import asyncio
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

VERSION = "1.12.0"
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Small pictures, many steps: quick to make, and slow enough to be cancelled once TEST_MODE_STEP_MS stretches the steps.
QUICK = {"test_mode": True, "text_content": "SALE", "width": 256, "height": 256, "bg_steps": 5, "text_steps": 5,
         "composition_steps": 10, "seed": 7}
SLOW = {**QUICK, "bg_steps": 50, "text_steps": 50, "composition_steps": 50, "composition_strength": 1.0}
WRONG = {**QUICK, "width": 17}
STEP_MS = "40"
DEADLINE_S = 90


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="base address of a running server, without /v2")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/marquee")
    parser.add_argument("--key", default="check-python-client", help="bearer key (a started server is given it)")
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / "target/python-client")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        sys.exit(subprocess.call([client_python(args.venv), __file__, *sys.argv[1:], "--inside"]))
    server, url = (None, args.url.rstrip("/")) if args.url else start(args.binary, args.key)
    try:
        rows = check(url, args.key)
    finally:
        if server:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
    failed = [row for row in rows if not row["ok"]]
    print(json.dumps({"client": f"runpod {VERSION}", "server": url, "calls": len(rows), "failed": len(failed),
                      "rows": rows}, indent=1))
    sys.exit(1 if failed or not rows else 0)


def client_python(venv):
    python = venv / "bin/python"
    wanted = f"import importlib.metadata as m, sys; sys.exit(m.version('runpod') != '{VERSION}')"
    if not python.exists() or subprocess.call([python, "-c", wanted], stderr=subprocess.DEVNULL) != 0:
        subprocess.check_call([sys.executable, "-m", "venv", venv])
        subprocess.check_call([python, "-m", "pip", "install", "--quiet", f"runpod=={VERSION}"], stdout=sys.stderr)
    return python


def start(binary, key):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "MARQUEE_"))}
    env |= {"MARQUEE_API_KEY": key, "TEST_MODE_STEP_MS": STEP_MS}
    server = subprocess.Popen([binary, "serve", "--host", "127.0.0.1", "--port", "0"], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = None
    for line in server.stdout:
        sys.stderr.write(line)
        found = re.search(r"listening on (http://[0-9A-Za-z.:\[\]-]+)", line)
        if found:
            address = found.group(1)
            break
    if not address:
        raise SystemExit(f"{binary} ended (exit code {server.wait()}) without \"listening on http://HOST:PORT\"")
    # Its log must be read, or the pipe fills and it blocks.
    threading.Thread(target=lambda: [sys.stderr.write(line) for line in server.stdout], daemon=True).start()
    return server, address


class Rows:
    """Runs checks and notes how they went; a check that hangs fails like one that raises."""

    def __init__(self):
        self.rows = []

    def note(self, client, call, started, result):
        ok = not isinstance(result, BaseException)
        detail = result if ok else f"{type(result).__name__}: {result}"
        self.rows.append({"client": client, "call": call, "ok": ok, "ms": round((time.monotonic() - started) * 1000, 1),
                          "detail": detail})

    def sync(self, call, check):
        started, box = time.monotonic(), []

        def guarded():
            try:
                box.append(check())
            except BaseException as error:  # noqa: BLE001 - the row carries it
                box.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        self.note("sync", call, started, box[0] if box else TimeoutError(f"no end within {DEADLINE_S} s"))

    async def asynchronous(self, call, check):
        started = time.monotonic()
        try:
            result = await asyncio.wait_for(check(), DEADLINE_S)
        except BaseException as error:  # noqa: BLE001
            result = error
        self.note("asyncio", call, started, result)


def expect(condition, found):
    if not condition:
        raise AssertionError(f"found {brief(found)}")
    return brief(found)


def brief(value):
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 160 else f"{text[:150]}... ({len(text)} characters)"


def has_pictures(output):
    return isinstance(output, dict) and bool((output.get("images") or {}).get("final_result"))


def health_shape(health):
    return {"jobs": {"completed", "failed", "inProgress", "inQueue", "retried"}, "workers": {"idle", "running"}} == {
        part: set(health[part]) & {"completed", "failed", "inProgress", "inQueue", "retried", "idle", "running"}
        for part in ("jobs", "workers")}


def check(url, key):
    os.environ["RUNPOD_ENDPOINT_BASE_URL"] = f"{url}/v2"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    import runpod

    runpod.api_key = key
    rows = Rows()
    check_sync(runpod, rows)
    asyncio.run(check_async(runpod, rows))
    return rows.rows


def check_sync(runpod, rows):
    endpoint = runpod.Endpoint("local")
    jobs = {}

    def run():
        jobs["first"] = endpoint.run(QUICK)
        return expect(bool(jobs["first"].job_id), jobs["first"].job_id)

    def status():
        state = jobs["first"].status()
        return expect(state in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"), state)

    def output():
        result = jobs["first"].output(timeout=60)
        state = jobs["first"].status()
        return expect(has_pictures(result) and state == "COMPLETED", result)

    def progress():
        job = endpoint.run(SLOW)
        seen, deadline = None, time.monotonic() + 30
        # With timeout 0 the call returns whatever is there: progress, while the job runs.
        while not (isinstance(seen, dict) and "percent" in seen) and time.monotonic() < deadline:
            seen = job.output()
            time.sleep(0.05)
        job.cancel()
        return expect(isinstance(seen, dict) and "percent" in seen, seen)

    def run_sync():
        result = endpoint.run_sync(QUICK, timeout=60)
        return expect(has_pictures(result), result)

    def run_wrapped():
        result = endpoint.run_sync({"input": QUICK}, timeout=60)
        return expect(has_pictures(result), result)

    def run_sync_of_a_failure():
        # The client returns no output for FAILED and raises nothing.
        result = endpoint.run_sync(WRONG, timeout=60)
        return expect(result is None, result)

    def status_of_a_failure():
        job = endpoint.run(WRONG)
        job.output(timeout=60)
        return expect(job.status() == "FAILED", job.status())

    def stream():
        job = endpoint.run(SLOW)
        chunks = list(job.stream())
        return expect(chunks and has_pictures(chunks[-1]) and job.status() == "COMPLETED",
                      f"{len(chunks)} chunks, last one: {brief(chunks[-1] if chunks else None)}")

    def cancel():
        job = endpoint.run(SLOW)
        while job.status() == "IN_QUEUE":
            time.sleep(0.02)
        reply = job.cancel()
        state = job.status()
        return expect(reply == {"id": job.job_id, "status": "CANCELLED"} and state == "CANCELLED", [reply, state])

    def stream_of_a_cancelled_job():
        job = endpoint.run(SLOW)
        job.cancel()
        chunks = list(job.stream())
        return expect(not any(has_pictures(chunk) for chunk in chunks), chunks)

    def health():
        reply = endpoint.health()
        return expect(health_shape(reply), reply)

    def purge_queue():
        running, *waiting = [endpoint.run(SLOW) for _ in range(3)]
        while running.status() == "IN_QUEUE":
            time.sleep(0.02)
        reply = endpoint.purge_queue()
        states = [job.status() for job in waiting]
        running.cancel()
        return expect(reply == {"removed": 2, "status": "completed"} and states == ["CANCELLED"] * 2, [reply, states])

    def wrong_key():
        try:
            runpod.Endpoint("local", api_key="wrong").health()
        except RuntimeError as error:
            return expect("401" in str(error), str(error))
        raise AssertionError("a wrong key was accepted")

    for call, one in [
        ("Endpoint.health", health), ("Endpoint.run", run), ("Job.status", status), ("Job.output(timeout)", output),
        ("Job.output() while running", progress), ("Endpoint.run_sync", run_sync),
        ("Endpoint.run_sync({'input': ...})", run_wrapped), ("Endpoint.run_sync of a wrong input", run_sync_of_a_failure),
        ("Job.status of a wrong input", status_of_a_failure), ("Job.stream", stream), ("Job.cancel", cancel),
        ("Job.stream of a cancelled job", stream_of_a_cancelled_job), ("Endpoint.purge_queue", purge_queue),
        ("wrong key", wrong_key),
    ]:
        rows.sync(call, one)


async def check_async(runpod, rows):
    from runpod import AsyncioEndpoint, http_client

    async with http_client.AsyncClientSession() as session:
        endpoint = AsyncioEndpoint("local", session)
        jobs = {}

        async def run():
            jobs["first"] = await endpoint.run(QUICK)
            return expect(bool(jobs["first"].job_id), jobs["first"].job_id)

        async def status():
            state = await jobs["first"].status()
            return expect(state in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"), state)

        async def output():
            result = await jobs["first"].output(timeout=60)
            return expect(has_pictures(result), result)

        async def stream():
            job = await endpoint.run(SLOW)
            chunks = [chunk async for chunk in job.stream()]
            return expect(chunks and has_pictures(chunks[-1]), f"{len(chunks)} chunks")

        async def cancel():
            job = await endpoint.run(SLOW)
            reply = await job.cancel()
            state = await job.status()
            return expect(reply["status"] == "CANCELLED" and state == "CANCELLED", [reply, state])

        async def stream_of_a_cancelled_job():
            job = await endpoint.run(SLOW)
            await job.cancel()
            chunks = [chunk async for chunk in job.stream()]
            return expect(not any(has_pictures(chunk) for chunk in chunks), chunks)

        async def health():
            reply = await endpoint.health()
            return expect(health_shape(reply), reply)

        async def purge_queue():
            running, *waiting = [await endpoint.run(SLOW) for _ in range(3)]
            while await running.status() == "IN_QUEUE":
                await asyncio.sleep(0.02)
            reply = await endpoint.purge_queue()
            states = [await job.status() for job in waiting]
            await running.cancel()
            return expect(reply == {"removed": 2, "status": "completed"} and states == ["CANCELLED"] * 2,
                          [reply, states])

        for call, one in [
            ("Endpoint.health", health), ("Endpoint.run", run), ("Job.status", status), ("Job.output(timeout)", output),
            ("Job.stream", stream), ("Job.cancel", cancel), ("Job.stream of a cancelled job", stream_of_a_cancelled_job),
            ("Endpoint.purge_queue", purge_queue),
        ]:
            await rows.asynchronous(call, one)


if __name__ == "__main__":
    main()

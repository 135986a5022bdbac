#!/usr/bin/env python3
"""From the start of the process to FLUX's first step, weights in the page cache.

    scripts/scenarios/8_cold_start.py [--marquee PATH] [--models FOLDER] [--starts 3]

Each start is a fresh process that gets a background to paint at once. Told are the seconds from spawning it until it listens, until
its progress says that the first denoise step is done, and until the picture is there; medians of `--starts`, the first of which may
still fill the page cache and is not counted. `--first-step-at-most 3` bounds the median.
"""

import statistics
import sys
import time

import worker
from worker import expect, finish, job


def start(args, number):
    begun = time.monotonic()
    with worker.Worker(args, MARQUEE_PROGRESS_INTERVAL_MS="1") as running:
        listening = time.monotonic() - begun
        answer = running.call("POST", "/run", {"input": job(args, number, stop_step=1, bg_steps=4)})
        first = None
        while answer["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            expect(time.monotonic() - begun < args.timeout, f"no answer after {args.timeout} s\n{running.tail()}")
            time.sleep(0.003)
            answer = running.call("GET", f"/status/{answer['id']}")
            told = str(answer.get("output") or "")
            if first is None and any(f"({done}/4)" in told for done in range(1, 5)):
                first = time.monotonic() - begun
        expect(answer["status"] == "COMPLETED", f"{answer['status']}: {answer.get('error')}\n{running.tail()}")
        whole = time.monotonic() - begun
    moves = ((answer.get("output") or {}).get("memory") or {}).get("moves") or []
    reads = {f"{move['model']} to {move['to']}": move.get("seconds") for move in moves if move["from"] == "disk"}
    return {"listening_s": listening, "first_step_s": first or whole, "picture_s": whole, "reads_s": reads}


def scenario(args):
    starts = [start(args, number) for number in range(args.starts + 1)]
    report = {"starts": starts}
    for name in ("listening_s", "first_step_s", "picture_s"):
        report[name] = statistics.median(one[name] for one in starts[1:])
    if args.first_step_at_most is not None:
        report["passed"] = report["first_step_s"] <= args.first_step_at_most
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--first-step-at-most", type=float, metavar="SECONDS")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "cold start", scenario))

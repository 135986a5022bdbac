#!/usr/bin/env python3
"""Scenario 1: everything is kept (`auto_unload` false), nothing is planned (`GPU_BUDGET=off`), and the card leaves 22 GiB.

    scripts/scenarios/1_oom.py [--marquee PATH] [--models FOLDER] [--ballast 22GiB]

The models do not fit together, so the driver's memory must run out; that has to be told by name (the job's error, or a
warning where step 3 fell back to the plain composite), the process must live on, and the next job must complete. Passes if all
three hold. On a CPU (`--tiny`) nothing can run out; a budget that nothing fits stands in for it.
"""

import sys

import worker
from worker import expect, finish, job

NAMED = ("out of memory", "out_of_memory", "does not fit", "do not fit", "cannot fit", "gib")


def told(answer):
    """Where the answer says that memory ran out."""
    texts = [answer.get("error") or ""] + list((answer.get("output") or {}).get("warnings") or [])
    return [str(text)[:400] for text in texts if any(name in str(text).lower() for name in NAMED)]


def scenario(args):
    budget = "64KiB" if args.tiny else "off"
    report = {"gpu_budget": budget}
    with worker.Worker(args, GPU_BUDGET=budget) as running:
        first = running.run(job(args, 0, auto_unload=False))
        report |= {"status": first["status"], "told": told(first), "warnings": (first.get("output") or {}).get("warnings")}
        expect(first["status"] in ("FAILED", "COMPLETED"), f"an answer that is none: {first['status']}")
        expect(report["told"], f"memory did not run out, or nobody said so: {first['status']}, {str(first.get('error'))[:400]}\n{running.tail()}")
        expect(running.alive(), f"the worker ended with {running.process.poll()}\n{running.tail()}")
        # A job that does fit: no model at all on a CPU, SDXL alone on a card.
        small = {"test_mode": True} if args.tiny else {"bg_model": "sdxl", "stop_step": 1, "auto_unload": True}
        second = running.complete(job(args, 1, **small))
        report |= {"next_job": second["status"], "worker_alive": running.alive()}
        report["lines"] = [line for _, line in running.log if "memory" in line.lower()][-12:]
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.set_defaults(ballast="22GiB")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "oom", scenario))

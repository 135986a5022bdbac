#!/usr/bin/env python3
"""Another process takes the card's memory while the worker holds its models: running out that is not the worker's own doing.

    scripts/scenarios/7_outside.py [--marquee PATH] [--models FOLDER] [--leave 256MiB]

A job keeps everything (`auto_unload` false); then a ballast leaves next to nothing. The next job may complete (what has no use is
freed, and the work is tried once more under a smaller plan) or fail by name; the worker lives either way. Once the ballast is
gone the first job's parameters give its bytes again. Needs a card.
"""

import importlib
import sys

import worker
from worker import expect, finish, job

told = importlib.import_module("1_oom").told


def scenario(args):
    expect(not args.tiny, "a CPU has no memory of its own that another process could take")
    with worker.Worker(args) as running:
        first = running.complete(job(args, 0, auto_unload=False))
        with worker.Ballast(args.leave) as ballast:
            second = running.run(job(args, 1, auto_unload=False))
            report = {"ballast": ballast.facts, "status_under_ballast": second["status"], "told": told(second)}
            expect(running.alive(), f"the worker ended with {running.process.poll()}\n{running.tail()}")
            expect(second["status"] == "COMPLETED" or report["told"], f"{second['status']} without a word on memory: {second.get('error')}\n{running.tail()}")
        third = running.complete(job(args, 0, auto_unload=False))
        expect(third["hashes"] == first["hashes"], "the same job gave other bytes after the card was full")
        report["lines"] = [line for _, line in running.log if "memory" in line.lower()][-12:]
        report["seconds"] = [first["seconds"], second["seconds"], third["seconds"]]
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--leave", default="256MiB")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "memory taken from outside", scenario))

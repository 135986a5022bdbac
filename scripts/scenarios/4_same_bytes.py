#!/usr/bin/env python3
"""Scenario 4: the same seed and parameters give the same bytes, whatever `auto_unload` says.

    scripts/scenarios/4_same_bytes.py [--marquee PATH] [--models FOLDER] [--ballast 22GiB] [--gpu-budget 22GiB]

The same job with true, false, "auto" and per-step settings, in one worker and then, with true, in a fresh one; another seed must give
other bytes, or equality would prove nothing.
"""

import sys

import worker
from worker import expect, finish, job

SETTINGS = (
    {"auto_unload": True}, {"auto_unload": False}, {"auto_unload": "auto"}, {"auto_unload": False, "auto_unload_step1": True},
    {"auto_unload": True},
)


def scenario(args):
    rows = []
    with worker.Worker(args) as running:
        for setting in SETTINGS:
            answer = running.complete(job(args, 0, **setting))
            rows.append({"setting": setting, "seconds": answer["seconds"], "hashes": answer["hashes"]})
        other = running.complete(job(args, 0, seed=7, auto_unload=True))["hashes"]
    with worker.Worker(args) as fresh:
        answer = fresh.complete(job(args, 0, auto_unload=True))
        rows.append({"setting": "a fresh worker, true", "seconds": answer["seconds"], "hashes": answer["hashes"]})
    first = rows[0]["hashes"]
    apart = [row["setting"] for row in rows if row["hashes"] != first]
    expect(not apart, f"other bytes than with {rows[0]['setting']}: {apart}\n{rows}")
    expect(all(other[name] != first[name] for name in first), "another seed gave the same bytes")
    return {"runs": rows}


if __name__ == "__main__":
    args = worker.prepare(worker.arguments(__doc__).parse_args())
    sys.exit(finish(args, "same bytes", scenario))

#!/usr/bin/env python3
"""Scenario 2: with `auto_unload` true memory falls in the log, and the driver agrees.

    scripts/scenarios/2_release.py [--marquee PATH] [--models FOLDER] [--ballast 22GiB] [--gpu-budget 22GiB]

One whole job. Each `[Before … unload]` line has its `[After … unload]` line with less allocated, the driver's count falls by
at least nine tenths of what the log says was freed, and after the last one the process holds no more than a bare context
and 0.3 GiB. `--peak-at-most 21.5GiB` bounds the whole job. On a CPU (`--tiny`) there is no driver: the log alone.
"""

import sys
import time

import worker
from worker import GIB, expect, finish, job

LEFT_BYTES = int(0.3 * GIB)
# What leaves because a step is over.
TIMETABLE = ("Step1", "Step2", "Flux Inpainting")


def bare_context():
    """What a context costs that does nothing."""
    driver = worker.Driver()
    before = driver.used()
    with worker.Ballast():
        return driver.used() - before


def driver_fall(running, before, after):
    """How far the driver's count fell between two lines of the log, which come a moment after what they tell."""
    high = running.driver_counts(before - 0.1, before + 0.003)
    low = running.driver_counts(before, after + 0.1)
    expect(high and low, "no reading of the driver's count around an unload")
    return max(high) - min(low)


def scenario(args):
    context = None if args.tiny else bare_context()
    with worker.Worker(args) as running:
        answer = running.complete(job(args, 0, auto_unload=True))
        time.sleep(0.5)
        left = None if args.tiny else running.driver.used() - running.before
        peak = None if args.tiny else max(used for _, used in running.samples) - running.before
    lines = running.memory_lines()
    report = {
        "seconds": answer["seconds"], "context_bytes": context, "left_bytes": left, "peak_bytes": peak,
        "lines": [f"[{label}] allocated {allocated / GIB:.2f} GiB, reserved {reserved / GIB:.2f} GiB" for _, label, allocated, reserved in lines],
        "memory": answer["output"].get("memory"),
    }
    falls = []
    for index, (before, label, allocated, _) in enumerate(lines):
        if not (label.startswith("Before ") and label.endswith(" unload")):
            continue
        name = label.removeprefix("Before ")
        end = next((line for line in lines[index + 1:] if line[1] == f"After {name}"), None)
        expect(end, f"[{label}] has no [After {name}]")
        freed = allocated - end[2]
        fall = {"label": name, "freed_bytes": freed}
        if not args.tiny:
            fell = driver_fall(running, before, end[0])
            fall["driver_freed_bytes"] = fell
        # Pieces that make room for others leave while those arrive; the driver shows only the difference.
        if not args.tiny and name.startswith(TIMETABLE):
            expect(fell >= 0.9 * freed - 0.02 * GIB, f"[{name}]: the log says {freed / GIB:.2f} GiB were freed, the driver {fell / GIB:.2f}")
        falls.append(fall)
    report["falls"] = falls
    labels = " ".join(fall["label"] for fall in falls)
    # The timetable is the latest moment: where step 2 needs the room, step 1's models have left piece by piece before it, and
    # what step 3 needs of them stays where there is room.
    said = labels + " ".join(line[1] for line in lines)
    first = "Step1" in labels or all(
        f"FLUX {net} unload" in said or f"FLUX {net} stays for a later step" in said for net in ("T5", "transformer", "VAE")
    )
    expect(first and all(part in labels for part in TIMETABLE[1:]), f"expected unloads of steps 1, 2 and 3, found {labels!r}\n{running.tail(40)}")
    expect(all(fall["freed_bytes"] > 0 for fall in falls), f"an unload that freed nothing: {falls}")
    expect(lines[-1][2] == 0, f"[{lines[-1][1]}]: {lines[-1][2]} bytes are still allocated")
    if args.peak_at_most is not None and peak is not None:
        expect(peak <= args.peak_at_most, f"{peak / GIB:.2f} GiB at most were in use, not {args.peak_at_most / GIB:.2f}")
    if left is not None:
        expect(left <= context + LEFT_BYTES, f"{left / GIB:.2f} GiB are left after the last unload; a bare context takes {context / GIB:.2f}")
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--peak-at-most", type=worker.size, metavar="SIZE", help="the most that the driver may have counted")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "release", scenario))

#!/usr/bin/env python3
"""What a FLUX step costs when the card may not hold the whole transformer.

    scripts/scenarios/6_budgets.py [--marquee PATH] [--models FOLDER] [--budgets 22GiB,16GiB,12GiB,8GiB]

A background alone, with few steps and with more: the difference is the steps' own time, loading and decoding cancel. Each job has
words of its own, or the second one of a pair would not need the text encoders. Medians of `--jobs` pairs, `auto_unload` false. Resident first, then under each GPU_BUDGET; 16 GiB may cost 1.05 times a resident step, 12 GiB 1.5
times. Beside it what the bus allows: the weights that have no room, packed to `--packed` of their bytes, over `--bus` GB/s, are the
least that a step can take.
"""

import itertools
import statistics
import sys

import worker
from worker import GIB, expect, finish, job

BOUNDS = {16: 1.05, 12: 1.5}
# Context, workspaces and activations of a step at 1024 x 1024, for the arithmetic beside the measurement.
BESIDE_WEIGHTS = 1 << 30


def step_ms(args, budget):
    """(milliseconds a step, most bytes by the driver's count, the transformer's bytes)."""
    few, many = 2, 2 + args.more_steps
    differences = []
    with worker.Worker(args, **({"GPU_BUDGET": budget} if budget else {})) as running:
        words = (f"a room with {number} chairs" for number in itertools.count(100))
        paint = lambda number, steps: running.complete(job(args, number, bg_prompt=next(words), stop_step=1, bg_steps=steps, auto_unload=False))
        first = paint(90, few)
        # Copies in main memory are made beside the first jobs.
        for number in range(args.warm_ups):
            paint(91 + number, few)
        for number in range(args.jobs):
            short, long = paint(number, few), paint(number, many)
            differences.append((long["executionTime"] - short["executionTime"]) / args.more_steps)
        peak = max((used for _, used in running.samples), default=None)
        peak = None if peak is None else peak - running.before
    moves = (first["output"].get("memory") or {}).get("moves") or []
    weights = max((move.get("bytes", 0) for move in moves if "transformer" in move.get("model", "").lower()), default=0)
    return statistics.median(differences), peak, weights


def scenario(args):
    resident, peak, weights = step_ms(args, None)
    expect(resident > 0, "more steps took no more time")
    rows = [{"budget": None, "step_ms": resident, "peak_bytes": peak, "transformer_bytes": weights}]
    passed = True
    for budget in args.budgets.split(","):
        step, peak, _ = step_ms(args, budget)
        streamed = max(0, weights + BESIDE_WEIGHTS - worker.size(budget))
        row = {"budget": budget, "step_ms": step, "of_resident": step / resident, "peak_bytes": peak}
        row |= {"without_room_bytes": streamed, "bus_floor_ms": streamed * args.packed / args.bus / 1e6}
        rows.append(row)
        bound = BOUNDS.get(worker.size(budget) // GIB)
        if bound and not args.tiny:
            row |= {"at_most": bound, "passed": row["of_resident"] <= bound}
            passed = passed and row["passed"]
        if peak is not None:
            expect(peak <= worker.size(budget), f"GPU_BUDGET={budget}: the driver counted {peak / GIB:.2f} GiB")
    return {"rows": rows, "passed": passed}


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--budgets", default="22GiB,16GiB,12GiB,8GiB")
    parser.add_argument("--jobs", type=int, default=3, help="pairs of jobs a budget")
    parser.add_argument("--warm-ups", type=int, default=3, help="jobs a budget that are not counted, beside the first")
    parser.add_argument("--more-steps", type=int, default=10)
    parser.add_argument("--bus", type=float, default=55.4, help="GB/s from pinned memory to the card")
    parser.add_argument("--packed", type=float, default=0.70, help="share of their bytes that packed weights have; 1 with HOST_PACKING=off")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "budgets", scenario))

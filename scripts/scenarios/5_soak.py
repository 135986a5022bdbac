#!/usr/bin/env python3
"""200 jobs with alternating settings: memory stays flat, and equal parameters give equal pictures.

    scripts/scenarios/5_soak.py [--marquee PATH] [--models FOLDER] [--jobs 200] [--seconds 540] [--gpu-budget 22GiB]

Four kinds of job (whole, SDXL background, background alone, text onwards in another size) with four settings of `auto_unload`, few
steps each. After every job the driver's count, the process's main memory and the pictures' hashes are noted. Passes if no hash
differs among equal parameters, every job completed, and what is held at equal states (after jobs of the same kind and setting)
does not grow from the run's second quarter to its last by more than 64 MiB on the card or 128 MiB of main memory.
"""

import sys
import time

import worker
from worker import expect, finish, job

CARD_BYTES, HOST_BYTES = 64 << 20, 128 << 20
SETTINGS = ({"auto_unload": True}, {"auto_unload": False}, {"auto_unload": "auto"}, {"auto_unload": True, "auto_unload_step1": False})


def kinds(args):
    small = args.size // 2 if args.size >= 512 else args.size
    return (
        job(args, 0),
        job(args, 1, bg_model="sdxl"),
        job(args, 2, stop_step=1),
        job(args, 3, width=small, height=small, composition_mode="behind"),
    )


def growth(rows, field):
    """Most growth between two quarters among rows of one kind and setting."""
    quarter = len(rows) // 4
    most = 0
    for state in {(row["kind"], row["setting"]) for row in rows}:
        early = [row[field] for row in rows[quarter : 2 * quarter] if (row["kind"], row["setting"]) == state]
        late = [row[field] for row in rows[-quarter:] if (row["kind"], row["setting"]) == state]
        if early and late and None not in early + late:
            most = max(most, max(late) - max(early))
    return most


def scenario(args):
    rows, hashes = [], {}
    begun = time.monotonic()
    # Results that the local API still keeps would look like a leak.
    with worker.Worker(args, MARQUEE_API_RESULT_TTL_S="1") as running:
        for number in range(args.jobs):
            if time.monotonic() - begun > args.seconds:
                break
            # Every kind meets every setting.
            kind, setting = number % 4, (number // 4 + number) % 4
            answer = running.complete(kinds(args)[kind] | SETTINGS[setting])
            known = hashes.setdefault(kind, answer["hashes"])
            rows.append({
                "kind": kind, "setting": setting, "seconds": round(answer["seconds"], 3), "host_bytes": running.host_bytes(),
                "card_bytes": None if running.before is None else running.driver.used() - running.before, "same": answer["hashes"] == known,
            })
    report = {
        "asked": args.jobs, "done": len(rows), "seconds": time.monotonic() - begun, "card_growth_bytes": growth(rows, "card_bytes"),
        "host_growth_bytes": growth(rows, "host_bytes"), "distinct": len({str(value) for value in hashes.values()}), "rows": rows,
    }
    other = [index for index, row in enumerate(rows) if not row["same"]]
    expect(not other, f"pictures of equal parameters differ in jobs {other}")
    expect(report["distinct"] == 4, "kinds of job with equal pictures prove nothing")
    expect(len(rows) >= min(args.jobs, 64), f"only {len(rows)} jobs in {args.seconds} s: quarters of fewer than 64 prove nothing")
    expect(report["card_growth_bytes"] <= CARD_BYTES, f"the card's memory grew by {report['card_growth_bytes']} bytes")
    expect(report["host_growth_bytes"] <= HOST_BYTES, f"main memory grew by {report['host_growth_bytes']} bytes")
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=540, help="no job starts after this")
    # Few steps: the soak is about what stays, not about pictures.
    parser.set_defaults(bg_steps=2, text_steps=2, composition_steps=10, size=512)
    args = worker.prepare(parser.parse_args())
    if args.tiny:
        args.size = 256
    sys.exit(finish(args, "soak", scenario))

#!/usr/bin/env python3
"""Scenario 3: ten whole jobs in a row, `auto_unload` true against false, and what diffusers does with the same checkpoints.

    scripts/scenarios/3_ten_jobs.py [--marquee PATH] [--models FOLDER] [--jobs 10] [--peers resident,reload,offload] [--only …]

Jobs differ in prompt and seed, but for the row `same_words`: `auto_unload` true, one prompt, other seeds. Two jobs of other words
before each row warm up and are not counted (`--warm-ups`): copies in main memory are still being made beside the first ones. Prints
each job's seconds, the means, and the ratio, which passes up to 1.05; a job must give the same pictures in every row. Peers run in a process of their own (peers.py), with the page cache warm: everything resident; each step's
models loaded, used and deleted; `enable_model_cpu_offload`. `--only true,false,same_words,peers` splits a run; with `--output` parts add up.
"""

import json
import statistics
import subprocess
import sys

import worker
from worker import Failed, expect, finish, job

MOST = 1.05


def row(args, setting, **words):
    with worker.Worker(args) as running:
        warm_ups = [job(args, 99 - number, auto_unload=setting, bg_prompt=f"an empty room, number {number}") for number in range(args.warm_ups)]
        warm = [running.complete(warm_up)["seconds"] for warm_up in warm_ups]
        begun = running.driver.used()
        answers = [running.complete(job(args, number, auto_unload=setting, **words)) for number in range(args.jobs)]
        peak = max((used for _, used in running.samples), default=None)
    seconds = [answer["seconds"] for answer in answers]
    distinct = {answer["hashes"]["final_result"] for answer in answers}
    expect(len(distinct) == len(answers), "jobs of different prompts and seeds gave the same picture")
    return {
        "warm_up_s": warm, "seconds": seconds, "mean_s": statistics.mean(seconds), "median_s": statistics.median(seconds),
        "peak_bytes": None if peak is None else peak - running.before, "kept_between_jobs_bytes": None if begun is None else begun - running.before,
        "timings": [answer["output"].get("timings") for answer in answers],
        "pictures": [{name: digest[:16] for name, digest in answer["hashes"].items()} for answer in answers],
    }


def same_pictures(report):
    """Whatever stays on the card, and whatever else it computes at the time, a job's pictures are the same."""
    rows = {name: report[name]["pictures"] for name in ("true", "false") if "pictures" in report.get(name, {})}
    if len(rows) == 2:
        for number, (one, other) in enumerate(zip(rows["true"], rows["false"])):
            expect(one == other, f"job {number} gave other pictures with auto_unload true than with false: {one}, {other}")
    if rows and "pictures" in report.get("same_words", {}):
        # Job 0 has the same words in every row.
        one, other = next(iter(rows.values()))[0], report["same_words"]["pictures"][0]
        expect(one == other, f"job 0 gave other pictures where its words were known: {one}, {other}")


def peers(args):
    command = [sys.executable, worker.HERE / "peers.py", "--models", args.models, "--modes", args.peers, "--jobs", str(args.peer_jobs)]
    command += ["--size", str(args.size), "--bg-steps", str(args.bg_steps), "--text-steps", str(args.text_steps)]
    command += ["--composition-steps", str(args.composition_steps), "--device", "cpu" if args.tiny else "cuda"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=args.timeout)
    if done.returncode:
        raise Failed(f"peers.py ended with {done.returncode}")
    return json.loads(done.stdout)


def scenario(args):
    parts = args.only.split(",")
    report = {"jobs": args.jobs, "size": args.size}
    if args.output and args.output.is_file():
        before = json.loads(args.output.read_text())
        report |= {part: before[part] for part in ("true", "false", "same_words", "peers") if part in before}
    if "true" in parts:
        report["true"] = row(args, True)
    if "false" in parts:
        report["false"] = row(args, False)
    if "same_words" in parts:
        report["same_words"] = row(args, True, bg_prompt=worker.PROMPTS[0])
    same_pictures(report)
    if "true" in report and "false" in report:
        report["true_over_false"] = report["true"]["mean_s"] / report["false"]["mean_s"]
        # Milliseconds of tiny jobs say nothing.
        report["passed"] = args.tiny or report["true_over_false"] <= MOST
    if "peers" in parts:
        report["peers"] = peers(args)
    for name, peer in report.get("peers", {}).get("modes", {}).items():
        if "mean_s" in peer and "true" in report:
            peer["marquee_true_over_it"] = report["true"]["mean_s"] / peer["mean_s"]
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--warm-ups", type=int, default=2)
    parser.add_argument("--peers", default="resident,reload,offload")
    parser.add_argument("--peer-jobs", type=int, default=1, help="jobs a mode after one that warms up")
    parser.add_argument("--only", default="true,false,same_words,peers")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "ten jobs", scenario))

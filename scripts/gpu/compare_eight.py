#!/usr/bin/env python3
"""What `QUANTIZATION` does to a picture: backgrounds of the same seeds in fp8 and int8 against those of bf16.

    python3 scripts/gpu/make_full_size.py /tmp/marquee-full --birefnet CHECKOUT
    python3 scripts/gpu/compare_eight.py --marquee target/release/marquee [--models FOLDER] [--pictures 2] [--modes fp8,int8]

A worker a mode, step 1 alone, all of its denoise steps. Prints the PSNR of each picture in dB over 0..255 and their least; at least
30 passes. Random weights say nothing of trained ones. Needs numpy and Pillow.
"""

import base64
import io
import math
import sys
from pathlib import Path

import numpy
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scenarios"))
import worker
from worker import finish, job

LEAST_DB = 30.0


def pictures(args, mode):
    found = []
    with worker.Worker(args, **({"QUANTIZATION": mode} if mode else {})) as running:
        for number in range(args.pictures):
            answer = running.complete(job(args, number, stop_step=1))
            text = answer["output"]["images"]["final_result"]
            image = Image.open(io.BytesIO(base64.b64decode(text.split(",")[-1])))
            found.append(numpy.asarray(image.convert("RGB"), dtype=numpy.float64))
    return found


def psnr(found, expected):
    error = float(((found - expected) ** 2).mean())
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def scenario(args):
    expected = pictures(args, None)
    report = {"deviation": [float(picture.std()) for picture in expected], "least_db": LEAST_DB, "passed": True}
    for mode in args.modes.split(","):
        each = [psnr(one, other) for one, other in zip(pictures(args, mode), expected)]
        report[mode] = {"psnr_db": [None if math.isinf(value) else value for value in each]}
        report["passed"] = report["passed"] and min(each) >= LEAST_DB
    return report


if __name__ == "__main__":
    parser = worker.arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--modes", default="fp8,int8")
    args = worker.prepare(parser.parse_args())
    sys.exit(finish(args, "eight bits", scenario))

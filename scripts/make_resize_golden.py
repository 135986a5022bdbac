#!/usr/bin/env python3
"""Makes handler_tests/goldens/imaging/resize.json and edges.json with the Pillow that the resampler must equal.

    python3 -m venv .venv-golden && .venv-golden/bin/pip install pillow==12.3.0
    .venv-golden/bin/python scripts/make_resize_golden.py

Inputs come from a small generator that the test repeats, so only checksums and sizes are kept (and, for one case of each
mode, every byte, so that a failure can be looked at).
"""

import json
import zlib
from pathlib import Path

import PIL
from PIL import Image, ImageFilter

PINNED = "12.3.0"
FOLDER = Path(__file__).resolve().parent.parent / "handler_tests" / "goldens" / "imaging"
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# (source width, height, target width, height): down, up, mixed, one axis, identity, sides of one pixel.
SIZES = [
    (300, 200, 256, 256),
    (153, 277, 64, 96),
    (64, 64, 128, 200),
    (100, 80, 100, 60),
    (100, 80, 37, 80),
    (33, 21, 33, 21),
    (1, 1, 7, 5),
    (7, 5, 1, 1),
    (1, 40, 3, 9),
    (517, 3, 16, 2),
]
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def pattern(count, seed):
    """Bytes of a 32 bit linear congruential generator; every eighth is 0 or 255, since clipping is where errors hide."""
    state, out = seed, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        value = state >> 24
        if (state >> 8) & 7 == 0:
            value = 255 if value & 1 else 0
        out.append(value)
    return bytes(out)


def main():
    assert PIL.__version__ == PINNED, f"Pillow {PIL.__version__} is installed, {PINNED} is the reference"
    cases = []
    for mode, channels in CHANNELS.items():
        for index, (w, h, tw, th) in enumerate(SIZES):
            image = Image.frombytes(mode, (w, h), pattern(w * h * channels, 1000 * channels + index))
            for name, resample in FILTERS.items():
                data = image.resize((tw, th), resample).tobytes()
                case = {"mode": mode, "filter": name, "seed": 1000 * channels + index, "from": [w, h], "to": [tw, th]}
                case["crc32"] = zlib.crc32(data)
                if (w, h) == (7, 5) or (w, h) == (1, 1):
                    case["bytes"] = data.hex()
                cases.append(case)
    write("resize.json", {"pillow": PINNED, "cases": cases})

    edges = []
    for seed, (w, h) in enumerate([(40, 30), (3, 3), (2, 5), (1, 1), (257, 65)]):
        source = Image.frombytes("L", (w, h), pattern(w * h, seed))
        soft = source.filter(ImageFilter.FIND_EDGES)
        edges.append({"seed": seed, "size": [w, h], "crc32": zlib.crc32(soft.tobytes())})
        if w * h <= 10:
            edges[-1]["bytes"] = soft.tobytes().hex()
    write("edges.json", {"pillow": PINNED, "cases": edges})


def write(name, value):
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(case) for case in value["cases"])
    (FOLDER / name).write_text(f'{{"pillow": "{value["pillow"]}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Takes the card's memory until only so much is free, and holds it until its standard input closes.

    scripts/scenarios/ballast.py --leave 22GiB
    scripts/scenarios/ballast.py                   opens a context and takes nothing else

Plain allocations through the driver (never managed memory); needs nothing but libcuda. Prints one line of JSON once it
holds: `free_bytes` as the driver counts, `in_use_bytes` once its
context was open, `taken_bytes`.
"""

import argparse
import ctypes
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from worker import size

CHUNK = 256 << 20
FINE = 2 << 20


class Cuda:
    def __init__(self, ordinal):
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        if code := getattr(self.lib, name)(*arguments):
            raise SystemExit(f"{name}: CUDA error {code}")

    def memory(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def take(self, count):
        """Whether there was room."""
        pointer = ctypes.c_uint64()
        return self.lib.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(count)) == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave", type=size)
    parser.add_argument("--device", type=int, default=0)
    args = parser.parse_args()
    cuda = Cuda(args.device)
    (free, total), taken = cuda.memory(), 0
    in_use = total - free
    if args.leave is not None:
        for chunk in (CHUNK, FINE):
            while cuda.memory()[0] >= args.leave + chunk and cuda.take(chunk):
                taken += chunk
        free = cuda.memory()[0]
        if free < args.leave:
            raise SystemExit(f"only {free} of {args.leave} bytes are free to begin with")
    print(json.dumps({"free_bytes": free, "total_bytes": total, "in_use_bytes": in_use, "taken_bytes": taken}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

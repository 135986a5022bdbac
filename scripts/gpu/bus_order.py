#!/usr/bin/env python3
"""What waits for a queue of copies to the card: kernels, and copies of several sizes on another stream.

    python3 scripts/gpu/bus_order.py

Queues 16 GiB of copies from page-locked memory on one stream, then times work on another, and the same without the queue. Prints a
line of JSON a kind of work: milliseconds alone and beside the queue. Needs torch and a card; twenty seconds.
"""

import json
import time

import torch

PIECE, PIECES = 64 << 20, 256


def main():
    from_host = [torch.empty(PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(8)]
    to_card = [torch.empty(PIECE, dtype=torch.uint8, device="cuda") for _ in range(8)]
    copies = torch.cuda.Stream()

    def milliseconds(work, pieces):
        torch.cuda.synchronize()
        with torch.cuda.stream(copies):
            for piece in range(pieces):
                to_card[piece % 8].copy_(from_host[piece % 8], non_blocking=True)
        begun = time.perf_counter()
        work()
        torch.cuda.current_stream().synchronize()
        return (time.perf_counter() - begun) * 1e3

    def tell(name, work):
        work()
        print(json.dumps({"work": name, "alone_ms": milliseconds(work, 0), "beside_ms": milliseconds(work, PIECES)}))

    small = torch.zeros(1024, device="cuda")
    tell("1000 kernels", lambda: [small.add_(1) for _ in range(1000)])
    for size in (64, 4096, 65536, 1 << 20, 4 << 20):
        pageable = torch.zeros(size, dtype=torch.uint8)
        locked = pageable.pin_memory()
        tell(f"{size} bytes to the card, pageable", lambda: pageable.to("cuda", non_blocking=True))
        tell(f"{size} bytes to the card, page-locked", lambda: locked.to("cuda", non_blocking=True))
        tell(f"{size} bytes from the card", lambda: to_card[0][:size].cpu())


if __name__ == "__main__":
    main()

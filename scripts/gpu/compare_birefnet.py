#!/usr/bin/env python3
"""Holds marquee's BiRefNet against the original's code on the same file and input.

    python3 scripts/gpu/compare_birefnet.py /tmp/marquee-full --original CHECKOUT --program target/release/examples/birefnet_measure \\
        --output docs/measurements/birefnet-parity-h200.json

CHECKOUT is BiRefNet's repository (scripts/birefnet_original.py says what of it is used). The original runs in f16 and, as the
reference, in f32 with TF32 off, both on the f16 file; marquee in f16 and f32. marquee's f16 error of features and logits against
f32 may be at most 1.1 times the original's own; f32 against f32 1e-4; the mask may differ from the f32 mask by no more than the
original's f16 mask plus 1/255 on average. Peak memory of marquee in f16 by the driver's count: at most 2 GiB. Times are medians.

Exits 1 on a miss. Needs a GPU, torch, torchvision, timm; under a minute.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import birefnet_original as original
import comparison
import make_full_size

MEMORY_BYTES = 2 * comparison.GIB
STAGES = ("x1", "x2", "x3", "x4", "logits")


def picture(edge, seed):
    """Smooth shapes with texture, as a photo has them, normalised by ImageNet's statistics."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(1, 3, size, size, generator=generator) for size in (4, 16, 64, edge)]
    grown = [torch.nn.functional.interpolate(layer, (edge, edge), mode="bilinear") for layer in layers]
    pixels = sum(weight * layer for weight, layer in zip((0.5, 0.25, 0.15, 0.1), grown))
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    # Rounded once, so that both precisions start from the same numbers.
    return ((pixels - mean) / deviation).half()


def mask(logits):
    return logits.float().cpu().sigmoid().mul(255).floor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with `birefnet`, which is written if it is missing")
    parser.add_argument("--original", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--program", required=True, help="the example birefnet_measure")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--edge", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="f16,f32", help="marquee's")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one run of marquee")
    parser.add_argument("--small", action="store_true", help="a small net, to try this script")
    args = parser.parse_args()

    comparison.exact_f32()
    make_full_size.ensure(args.root, ["birefnet"], args.device, checkout=args.original, small=args.small)
    folder, device = args.root / "birefnet", torch.device(args.device)
    sizes = json.loads((folder / "config.json").read_text()).get("backbone")
    work = Path(tempfile.mkdtemp(prefix="compare-birefnet-"))
    x = picture(args.edge, args.seed)
    request = work / "request.safetensors"
    save_file({"x": x}, request, metadata={"runs": str(args.runs)})

    net = original.build(args.original, sizes)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    results, rows = {}, {}
    for dtype, kind in (("f16", torch.float16), ("f32", torch.float32)):
        name = f"original {dtype}"
        net = net.to(device, kind)
        given = x.to(device, kind)
        comparison.reset_peak(device)
        logits = original.logits(net, given)
        times = [comparison.timed(device, lambda: original.logits(net, given))[1] for _ in range(args.runs)]
        rows[name] = {"run_ms": comparison.median(times), "peak_bytes": comparison.peak(device)}
        found = dict(zip(STAGES, original.features(net, given))) | {"logits": logits}
        results[name] = {stage: value.cpu() for stage, value in found.items()}
        print(f"{name}: {rows[name]}", file=sys.stderr)
    del net, given, logits, found
    gc.collect()
    comparison.reset_peak(device)

    failures = []
    for dtype in args.dtypes.split(","):
        name = f"marquee {dtype}"
        found, report = comparison.measured(
            args.program, [folder, request], dtype, args.device, args.timeout, work / f"{dtype}.safetensors"
        )
        if found is None:
            failures.append(f"{name}: no result")
            continue
        results[name] = found
        peaks = report["peak_bytes"] or {}
        rows[name] = {"run_ms": comparison.median(report["run_milliseconds"]), "peak_bytes": peaks.get("run"), "load_ms": report["milliseconds"]["load"], "report": report}

    reference = results["original f32"]
    for name, found in results.items():
        if name != "original f32":
            for stage in STAGES:
                rows[name][f"{stage}_relative"] = comparison.relative(found[stage], reference[stage])
            rows[name]["mask_mean_difference"] = (mask(found["logits"]) - mask(reference["logits"])).abs().mean().item()
        if not comparison.all_finite(found.values()):
            failures.append(f"{name}: numbers that are not finite")

    verdicts = {}
    if row := rows.get("marquee f16"):
        own = rows["original f16"]
        for stage in STAGES:
            verdicts[f"{stage}, f16"] = comparison.no_worse(row[f"{stage}_relative"], own[f"{stage}_relative"])
        verdicts["mask, f16"] = comparison.at_most(row["mask_mean_difference"], own["mask_mean_difference"] + 1)
        if row["peak_bytes"] is not None:
            verdicts["memory, f16"] = comparison.at_most(row["peak_bytes"] / comparison.GIB, MEMORY_BYTES / comparison.GIB)
    if row := rows.get("marquee f32"):
        verdicts["logits, f32"] = comparison.at_most(row["logits_relative"], comparison.F32_RELATIVE)
    report = {
        "checkpoint": "random weights of BiRefNet's size (scripts/gpu/make_full_size.py)", "edge": args.edge, "seed": args.seed,
        "reference_logits_standard_deviation": reference["logits"].std().item(), "rows": rows,
    }
    heads = {stage: f"{stage}_relative" for stage in STAGES} | {"run ms": "run_ms", "load ms": "load_ms", "peak GiB": "peak_bytes"}
    return comparison.conclude(report, verdicts, failures, args.output, heads)


if __name__ == "__main__":
    sys.exit(main())

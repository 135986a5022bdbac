"""What the comparisons with the originals share: errors, times, calls of marquee's measuring programs, the verdict."""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file

# marquee's half-precision error against the f32 reference may be so many times the peer's own.
FACTOR = 1.1
# Between two f32 programs: thousands of products summed in orders of their own.
F32_RELATIVE = 1e-4
# A picture's PSNR against the f32 picture may be so much below the peer's.
PSNR_SLACK_DB = 1.0
GIB = 1 << 30


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def exact_f32():
    """The reference multiplies in f32, not in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def relative(found, reference):
    found, reference = found.double().cpu(), reference.double().cpu()
    return ((found - reference).norm() / reference.norm()).item()


def psnr(found, reference):
    error = (found.double() - reference.double()).square().mean().item()
    return float("inf") if error == 0 else 10 * torch.log10(torch.tensor(255.0**2 / error)).item()


def median(times):
    return statistics.median(times) if times else None


def sync(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(device, call):
    """(result, milliseconds)."""
    sync(device)
    started = time.perf_counter()
    result = call()
    sync(device)
    return result, 1e3 * (time.perf_counter() - started)


def reset_peak(device):
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device):
    """Most bytes that torch had from the driver since `reset_peak`, its context not counted."""
    return torch.cuda.max_memory_reserved() if torch.device(device).type == "cuda" else None


def measured(program, words, dtype, device, timeout, result):
    """Runs a measuring example: (tensors, report), or (None, None) if it failed."""
    environment = dict(os.environ, DEVICE=device, DTYPE=dtype)
    command = [str(program), *map(str, words), str(result)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        print(f"{' '.join(command)} ({dtype}) took more than {timeout} s", file=sys.stderr)
        return None, None
    if done.returncode:
        print(f"{' '.join(command)} ({dtype}) ended with {done.returncode}", file=sys.stderr)
        return None, None
    report = json.loads(done.stdout.splitlines()[-1])
    report["process_ms"] = 1e3 * (time.perf_counter() - started)
    return load_file(result), report


def at_most(value, bound, **more):
    # Not `value > bound`: a NaN must not pass.
    return {"value": value, "at_most": bound, **more, "passed": bool(value <= bound)}


def no_worse(found, peer, **more):
    """An error against the peer's own."""
    return at_most(found / peer if peer else float("inf"), FACTOR, error=found, peer_error=peer, **more)


def all_finite(tensors):
    return all(torch.isfinite(tensor.float()).all().item() for tensor in tensors)


def conclude(report, verdicts, failures, output, heads):
    """Writes the report, prints rows and verdicts, and gives the exit status. `heads`: column title to a row's field."""
    passed = not failures and bool(verdicts) and all(verdict["passed"] for verdict in verdicts.values())
    report |= {"verdicts": verdicts, "failures": failures, "passed": passed}
    report["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    report["versions"] = {name: version(name) for name in ("torch", "diffusers", "transformers", "torchvision", "timm")}
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['device']}; errors against the f32 reference")
    print(f"{'':16}" + "".join(f"{head:>12}" for head in heads))
    for name, row in report["rows"].items():
        cells = []
        for field in heads.values():
            value = row.get(field)
            if value is None:
                cells.append("-")
            elif field.endswith("relative"):
                cells.append(f"{value:.2e}")
            elif field.endswith("bytes"):
                cells.append(f"{value / GIB:.2f}")
            else:
                cells.append(f"{value:.1f}")
        print(f"{name:16}" + "".join(f"{cell:>12}" for cell in cells))
    for name, verdict in verdicts.items():
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in verdict.items() if isinstance(value, (int, float)) and key != "passed")
        print(f"{'ok  ' if verdict['passed'] else 'MISS'} {name}: {numbers}")
    for failure in failures:
        print(f"MISS {failure}")
    return 0 if passed else 1

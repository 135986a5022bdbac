"""A real worker (`marquee serve`) under watch: its jobs, its log, the card's and the machine's memory. Standard library only.

The scenarios drive the program as a customer does, over HTTP, and read what an operator reads: log lines and the driver's
count of memory.
"""

import argparse
import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GIB = 1 << 30
# The sentence tells 0.01 GiB, the fields behind it bytes.
LINE = re.compile(r"\[(?P<label>[^\]]+)\] GPU Memory: allocated=[\d.]+GB, reserved=[\d.]+GB.*\ballocated_bytes=(?P<allocated>\d+) reserved_bytes=(?P<reserved>\d+)")
PROMPTS = (
    "a wooden table in soft morning light", "a beach at noon, fine sand", "the old harbour at dusk, lanterns", "a marble shelf in a bathroom",
    "wet asphalt at night, neon signs", "a bowl of lemons in a bright kitchen", "first snow in the mountains", "a garden after the rain",
    "a studio with a grey backdrop", "an attic with dust in the sun",
)


class Driver:
    """The card's memory by the driver's count (NVML); `None` everywhere without a card."""

    def __init__(self, index=0):
        self.handle = None
        try:
            self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        handle = ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() == 0 and self.nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            self.handle = handle

    def used(self):
        if self.handle is None:
            return None

        class Memory(ctypes.Structure):
            _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]

        memory = Memory()
        failed = self.nvml.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(memory))
        return None if failed else memory.used

    def name(self):
        if self.handle is None:
            return "cpu"
        text = ctypes.create_string_buffer(96)
        self.nvml.nvmlDeviceGetName(self.handle, text, 96)
        return text.value.decode()


UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def size(text):
    """`22GiB` in bytes."""
    found = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].lower() not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size such as 22GiB")
    return int(float(found[1]) * UNITS[found[2].lower()])


class Failed(Exception):
    """A scenario's expectation did not hold."""


def expect(condition, message):
    if not condition:
        raise Failed(message)


def arguments(description):
    """What all scenarios understand; to be extended, then handed to `prepare`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marquee", type=Path, default=ROOT / "target/release/marquee", help="the program, built with the feature cuda (or models, with --tiny)")
    parser.add_argument("--models", type=Path, default=Path("/tmp/marquee-full"), help="folder with flux, sdxl, controlnet, birefnet (scripts/gpu/make_full_size.py)")
    parser.add_argument("--tiny", action="store_true", help="tiny checkpoints on the CPU: does the scenario run")
    parser.add_argument("--gpu-budget", help="GPU_BUDGET of the worker")
    parser.add_argument("--ballast", metavar="SIZE", help="another process takes all of the card but SIZE, such as 22GiB")
    parser.add_argument("--size", type=int, help="edge of the pictures in pixels [1024; 256 with --tiny]")
    parser.add_argument("--bg-steps", type=int, help="[25; 2 with --tiny]")
    parser.add_argument("--text-steps", type=int, help="[30; 2 with --tiny]")
    parser.add_argument("--composition-steps", type=int, help="[28; 10 with --tiny]")
    parser.add_argument("--timeout", type=float, default=540, help="seconds for one job")
    parser.add_argument("--output", type=Path, help="where the JSON goes, beside standard output")
    return parser


def prepare(args):
    """Fills the defaults and makes tiny checkpoints if they are asked for."""
    small = {"size": 256, "bg_steps": 2, "text_steps": 2, "composition_steps": 10}
    full = {"size": 1024, "bg_steps": 25, "text_steps": 30, "composition_steps": 28}
    for name, value in (small if args.tiny else full).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if not args.marquee.is_file():
        raise SystemExit(f"{args.marquee}: no such program; build it, or name it with --marquee")
    if args.tiny:
        args.models = Path(tempfile.mkdtemp(prefix="marquee-tiny-"))
        families = {"flux": "flux-dev", "sdxl": "sdxl", "controlnet": "sdxl-controlnet", "birefnet": "birefnet"}
        for folder, family in families.items():
            subprocess.run([args.marquee, "models", "tiny", args.models / folder, "--family", family], check=True)
    for folder in ("flux", "sdxl", "controlnet", "birefnet"):
        if not (args.models / folder).is_dir():
            raise SystemExit(f"{args.models / folder}: missing; scripts/gpu/make_full_size.py {args.models} --birefnet CHECKOUT writes it")
    return args


def job(args, number, **more):
    """Input of a whole job; `number` chooses prompt and seed."""
    return {
        "text_content": "Summer Sale", "bg_prompt": PROMPTS[number % len(PROMPTS)], "seed": 1000 + number, "width": args.size,
        "height": args.size, "bg_steps": args.bg_steps, "text_steps": args.text_steps, "composition_steps": args.composition_steps, **more,
    }


class Ballast:
    """Another process that leaves only so much of the card; without a size, one that holds nothing but a context."""

    def __init__(self, leave=None):
        command = [sys.executable, HERE / "ballast.py", *(["--leave", leave] if leave else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"ballast.py ended with {self.process.wait()}")
        self.facts = json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)


class Worker:
    """One `marquee serve`."""

    def __init__(self, args, **variables):
        self.args, self.driver = args, Driver()
        self.before = self.driver.used()
        names = {"FLUX_MODEL": "flux", "SDXL_MODEL": "sdxl", "CONTROLNET_MODEL": "controlnet", "SEGMENTATION_MODEL": "birefnet"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "MARQUEE_", "AUTO_UNLOAD"))}
        environment |= {name: str(args.models / folder) for name, folder in names.items()}
        # As in the image: freed picture buffers stay with the process.
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
        environment |= {"DEVICE": "cpu" if args.tiny else "cuda", "MARQUEE_JOB_TIMEOUT_S": str(int(args.timeout))}
        environment["MARQUEE_STATISTICS_FILE"] = str(Path(tempfile.mkdtemp(prefix="marquee-")) / "statistics.json")
        if args.gpu_budget:
            environment["GPU_BUDGET"] = args.gpu_budget
        environment |= variables
        self.log, self.address = [], None
        # (time, bytes), every few milliseconds: an unload takes less than reading a line does.
        self.samples, self.ended = [], threading.Event()
        if self.before is not None:
            threading.Thread(target=self.sample, daemon=True).start()
        self.process = subprocess.Popen(
            [args.marquee, "serve", "--host", "127.0.0.1", "--port", "0"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.listening = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        if not self.listening.wait(60) or self.address is None:
            raise Failed(f"the worker did not listen: {self.tail()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def sample(self):
        while not self.ended.wait(0.003):
            self.samples.append((time.monotonic(), self.driver.used()))

    def driver_counts(self, begin, end):
        """The driver's counts between two times."""
        return [used for at, used in self.samples if begin <= at <= end]

    def read(self):
        """Each line with the time of its arrival."""
        for line in self.process.stdout:
            self.log.append((time.monotonic(), line.rstrip("\n")))
            if found := re.search(r"listening on (http://[0-9A-Za-z.:\[\]-]+)", line):
                self.address = found.group(1)
                self.listening.set()
        self.listening.set()

    def tail(self, lines=15):
        return "\n".join(line for _, line in self.log[-lines:])

    def memory_lines(self):
        """`log_gpu_memory`'s lines: (time, label, allocated, reserved), in bytes."""
        rows = []
        for at, line in self.log:
            if found := LINE.search(line):
                rows.append((at, found["label"], int(found["allocated"]), int(found["reserved"])))
        return rows

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return {"status": "REFUSED", "error": f"{error.code}: {error.read().decode(errors='replace')[:500]}"}

    def run(self, job):
        """Runs one job: the route's answer, with `seconds` from the request to the answer and `hashes` of its pictures."""
        begun = time.monotonic()
        answer = self.call("POST", "/run", {"input": job})
        while answer["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            if time.monotonic() - begun > self.args.timeout + 30:
                raise Failed(f"no answer after {self.args.timeout + 30:.0f} s:\n{self.tail()}")
            if not self.alive():
                raise Failed(f"the worker ended with {self.process.poll()}:\n{self.tail()}")
            time.sleep(0.01)
            answer = self.call("GET", f"/status/{answer['id']}")
        answer["seconds"] = time.monotonic() - begun
        images = (answer.get("output") or {}).get("images") or {}
        answer["hashes"] = {name: hashlib.sha256(image.encode()).hexdigest() for name, image in images.items()}
        return answer

    def complete(self, job):
        """Runs one job that has to succeed without a warning that a step was replaced."""
        answer = self.run(job)
        expect(answer["status"] == "COMPLETED", f"{answer['status']}: {answer.get('error')}\n{self.tail()}")
        wanted = {"step1_result", "step2_result", "final_result"} if "stop_step" not in job else {"final_result"}
        missing = wanted - answer["hashes"].keys()
        expect(not missing, f"pictures are missing: {sorted(missing)}; warnings: {answer['output'].get('warnings')}")
        replaced = [warning for warning in answer["output"].get("warnings", []) if warning.startswith("step 3 failed")]
        expect(not replaced, str(replaced))
        return answer

    def alive(self):
        return self.process.poll() is None

    def host_bytes(self):
        """Resident main memory of the process, page-locked memory included."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        return int(found.group(1)) * 1024 if found else None

    def stop(self):
        self.ended.set()
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def finish(args, scenario, call):
    """Runs `call(args) -> report`, prints the report as JSON, and gives the exit status."""
    report = {"scenario": scenario, "device": Driver().name(), "models": "tiny" if args.tiny else "random, full size or real", "gpu_budget": args.gpu_budget, "ballast_leaves": args.ballast}
    try:
        if args.ballast and not args.tiny:
            with Ballast(args.ballast) as ballast:
                report["ballast"] = ballast.facts
                report |= call(args)
        else:
            report |= call(args)
        report["passed"] = report.get("passed", True)
    except Failed as failure:
        report |= {"passed": False, "failure": str(failure)}
    text = json.dumps(report, indent=1)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n")
    return 0 if report["passed"] else 1

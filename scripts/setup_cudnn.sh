#!/usr/bin/env bash
# Fetches the headers of cuDNN and of its C++ frontend from PyPI wheels, for the build of feature `cuda`; prints the
# `export` line that build.rs reads. No root, no GPU:
#
#     eval "$(scripts/setup_cuda.sh 90)"; eval "$(scripts/setup_cudnn.sh)"
#
# Headers only: the library itself is opened at run time (src/cuda/shim/cudnn_loader.cpp). A script of its own because
# setup_cuda.sh makes its whole toolkit anew whenever it changes, and cargo then builds candle's kernels anew.
#
# Needs setup_cuda.sh's virtual environment (for pip) and 15 MB in ${MARQUEE_CUDA_DIR:-~/.cache/marquee/cuda}.
set -euo pipefail

root="${MARQUEE_CUDA_DIR:-${HOME:?}/.cache/marquee/cuda}"
# 9.14 is the oldest run-time library that is asked for; the frontend looks at the library's version itself.
wheels=(nvidia-cudnn-cu13==9.14.0.64 nvidia-cudnn-frontend==1.32.0)
headers="$root/cudnn-9.14.0-frontend-1.32.0"

if [[ ! -e "$headers/complete" ]]; then
    python="$root/venv/bin/python"
    if [[ ! -x "$python" ]]; then
        echo "setup_cudnn: $python is missing: run scripts/setup_cuda.sh first" >&2
        exit 1
    fi
    rm -rf "$headers"
    mkdir -p "$headers/wheels" "$headers/include"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$headers/wheels" "${wheels[@]}" >&2
    "$python" - "$headers" <<'PYTHON'
import pathlib, sys, zipfile

headers = pathlib.Path(sys.argv[1])
for wheel in (headers / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            for prefix in ("nvidia/cudnn/include/", "include/"):
                if name.startswith(prefix) and not name.endswith("/"):
                    target = headers / "include" / name[len(prefix):]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(files.read(name))
                    break
PYTHON
    for wanted in cudnn.h cudnn_graph.h cudnn_frontend.h; do
        if [[ ! -e "$headers/include/$wanted" ]]; then
            echo "setup_cudnn: $headers/include/$wanted is missing: the wheels changed their layout" >&2
            exit 1
        fi
    done
    rm -r "$headers/wheels"
    touch "$headers/complete"
    echo "setup_cudnn: made $headers" >&2
fi
printf 'export MARQUEE_CUDNN_INCLUDE=%q\n' "$headers/include"

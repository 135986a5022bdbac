#!/usr/bin/env bash
# Makes a CUDA 13.0 toolkit folder from PyPI wheels: no root, no GPU, no system CUDA. Prints the `export` lines that a
# build with `--features cuda` needs; everything else goes to stderr, so this works:
#
#     eval "$(scripts/setup_cuda.sh)"            # compute capability 80: PTX that every newer card compiles for itself
#     eval "$(scripts/setup_cuda.sh 90)"         # Hopper only (cudaforge turns 90 into sm_90a)
#     cargo build --release --features cuda
#
# Needs python3 with venv and pip, gcc, and about 2 GB in ${MARQUEE_CUDA_DIR:-~/.cache/marquee/cuda}. A second run finds
# its own work and takes no time; a run that was cut off starts over.
#
# Why 13.0 and not newer: candle embeds PTX, which the driver compiles, and a driver refuses PTX from a newer nvcc than
# itself. Driver 580 knows 13.0.
set -euo pipefail

capability="${1:-${CUDA_COMPUTE_CAP:-80}}"
root="${MARQUEE_CUDA_DIR:-${HOME:?}/.cache/marquee/cuda}"
wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
    nvidia-cublas==13.0.2.14
    nvidia-curand==10.4.0.35
    nvidia-cuda-nvrtc==13.0.88
)

if ! [[ "$capability" =~ ^[0-9]{2,3}$ ]]; then
    echo "setup_cuda: the compute capability is two or three digits, such as 80 or 90; got '$capability'" >&2
    exit 2
fi
for tool in python3 gcc; do
    if ! command -v "$tool" >/dev/null; then
        echo "setup_cuda: $tool is missing (Debian: apt-get install python3-venv gcc)" >&2
        exit 1
    fi
done

toolkit="$root/toolkit"
# Names what the folder was made from: another list of wheels, or another version of this script, makes it anew.
recipe="$(sha256sum <"${BASH_SOURCE[0]}" | cut -d' ' -f1)"

if [[ "$(cat "$root/complete" 2>/dev/null || true)" != "$recipe" ]]; then
    mkdir -p "$root"
    rm -f "$root/complete"
    if ! python3 -m venv "$root/venv" >&2; then
        echo "setup_cuda: python3 cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    "$root/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        "${wheels[@]}" >&2
    packages="$("$root/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    wheel_tree="$packages/nvidia/cu13"
    for wanted in bin/nvcc bin/ptxas nvvm/bin/cicc include/cuda.h include/cublas_v2.h lib/libcudart.so.13; do
        if [[ ! -e "$wheel_tree/$wanted" ]]; then
            echo "setup_cuda: $wheel_tree/$wanted is missing: the wheels changed their layout" >&2
            exit 1
        fi
    done

    rm -rf "$toolkit"
    mkdir -p "$toolkit/lib64"
    ln -s "$wheel_tree/bin" "$wheel_tree/nvvm" "$wheel_tree/include" "$toolkit/"
    ln -s lib64 "$toolkit/lib"
    for library in "$wheel_tree"/lib/*; do
        ln -s "$library" "$toolkit/lib64/"
        name="$(basename "$library")"
        # The wheels ship libcublas.so.13; the linker asks for libcublas.so.
        case "$name" in
            *.so.*) ln -sf "$library" "$toolkit/lib64/${name%%.so.*}.so" ;;
        esac
    done

    # The driver's library comes with the driver, so a machine without a GPU has none. The linker only wants the names:
    # every one that cuda.h mentions, including the versioned ones behind its macros.
    stub="$root/libcuda_stub.c"
    grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$wheel_tree/include/cuda.h" | sort -u \
        | sed 's/.*/int &(void) { return 999; }/' >"$stub"
    gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$toolkit/lib64/libcuda.so" "$stub"

    chmod -R u+w "$wheel_tree/bin" "$wheel_tree/nvvm/bin"
    chmod +x "$wheel_tree"/bin/* "$wheel_tree"/nvvm/bin/*
    "$toolkit/bin/nvcc" --version | tail -n 2 >&2
    echo "$recipe" >"$root/complete"
    echo "setup_cuda: made $toolkit" >&2
fi

for variable in CUDA_HOME CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR; do
    printf 'export %s=%q\n' "$variable" "$toolkit"
done
printf 'export CUDA_COMPUTE_CAP=%q\n' "$capability"
printf 'export PATH=%q:"$PATH"\n' "$toolkit/bin"
# gcc looks here when it links; cudarc's build script names the same folder. RUSTFLAGS would do as well, but cargo builds
# every crate anew when they change, the CPU build's among them.
printf 'export LIBRARY_PATH=%q${LIBRARY_PATH:+:$LIBRARY_PATH}\n' "$toolkit/lib64"

#!/usr/bin/env bash
# Type-checks everything that the feature `cuda` compiles, on a machine without GPU or CUDA: `scripts/check_cuda.sh`, or
# `scripts/check_cuda.sh clippy` for the lints as well. For CI, so that GPU code cannot rot.
#
# What it proves: the Rust code of the feature, its tests and examples compile against candle's and cudarc's CUDA API, and
# this project's own kernels (`*.cu` below the repository) compile with nvcc.
# What it does not: that candle's kernels compile, that anything links, that anything runs. `cargo check` runs build
# scripts, and candle-kernels' spends 12 CPU minutes in nvcc on files that this project does not own; so nvcc is
# replaced by a program that leaves empty files for other crates' kernels and calls the real one for ours. An empty file
# is no archive, so a program without kernels cannot be linked from here by mistake; the target folder is one of its own
# because cudaforge would take the empty files for finished ones. `cargo build --features cuda` proves the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
eval "$(scripts/setup_cuda.sh "${CUDA_COMPUTE_CAP:-80}")"
eval "$(scripts/setup_cudnn.sh)"
# One architecture shows what does not compile; a release builds all (see build.rs).
export MARQUEE_CUDA_ARCHS="${MARQUEE_CUDA_ARCHS:-90a}"

shim="$PWD/target/cuda-check/shim"
mkdir -p "$shim/bin"
ln -sfn "$CUDA_HOME/include" "$shim/include"
ln -sfn "$CUDA_HOME/lib64" "$shim/lib64"
cat >"$shim/bin/nvcc.new" <<SHIM
#!/usr/bin/env bash
set -euo pipefail
# Build scripts run in their package's folder.
case "\$PWD/ \$*" in
    "$PWD"/*|*" --version"*|*" --list-gpu"*) exec "$CUDA_HOME/bin/nvcc" "\$@" ;;
esac
output= folder= source=
while ((\$#)); do
    case "\$1" in
        -o) output="\$2"; shift ;;
        --output-directory) folder="\$2"; shift ;;
        *.cu) source="\$1" ;;
    esac
    shift
done
: >"\${output:-\$folder/\$(basename "\$source" .cu).ptx}"
SHIM
chmod +x "$shim/bin/nvcc.new"
# Cargo reruns build scripts when the file behind NVCC is another one, so it is replaced only if it changed.
cmp -s "$shim/bin/nvcc.new" "$shim/bin/nvcc" && rm "$shim/bin/nvcc.new" || mv "$shim/bin/nvcc.new" "$shim/bin/nvcc"

# A check runs nothing but build scripts and macros; optimising those, as the profile asks for dependencies, costs minutes.
NVCC="$shim/bin/nvcc" exec cargo "${1:-check}" --locked --target-dir target/cuda-check --features cuda --all-targets \
    --config 'profile.dev.package."*".opt-level=0'

#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests. From nothing on two cores: see README, "Tests".
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust 1.88 or later (https://rustup.rs)" >&2
    exit 1
fi
# ring's build script compiles C.
if ! command -v cc >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev
    else
        echo "a C compiler is missing: install gcc (Debian: apt-get install gcc libc6-dev)" >&2
        exit 1
    fi
fi

cargo fmt --check
# Without nets first: the worker must build and pass without candle.
cargo clippy --locked --all-targets --features sim -- -D warnings
cargo clippy --locked --all-targets --features sim,models -- -D warnings
cargo test --locked --features sim,models

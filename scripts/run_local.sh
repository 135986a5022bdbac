#!/usr/bin/env bash
# A whole endpoint on this machine: the scripted simulator offers a test payload, a real worker polls it, and the
# pictures land in a folder.
#
#   scripts/run_local.sh [PAYLOAD=examples/summer_sale.json] [FOLDER=out/local]
set -euo pipefail
cd "$(dirname "$0")/.."
payload=${1:-examples/summer_sale.json}
folder=${2:-out/local}

cargo build --release --locked --features sim
variables=$(mktemp)
# `wait` below needs the simulator's own status; the worker goes whatever happens.
trap 'kill "${worker:-}" 2>/dev/null || true; rm -f "$variables"' EXIT

target/release/marquee-endpoint-sim "$payload" --jobs 1 --out "$folder" --env-file "$variables" &
simulator=$!
until [ -s "$variables" ]; do
    kill -0 "$simulator" || { echo "the simulator ended early" >&2; exit 1; }
    sleep 0.05
done
set -a
# shellcheck disable=SC1090 # written by the simulator above
. "$variables"
set +a
target/release/marquee &
worker=$!
wait "$simulator"
kill -TERM "$worker"
wait "$worker"
ls -l "$folder"

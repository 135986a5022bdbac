#!/usr/bin/env bash
# All scenarios with tiny checkpoints on the CPU: do the scripts still fit the program. What they measure there means nothing.
#
#   scripts/scenarios/smoke.sh [PROGRAM=target/release/marquee]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../../target/release/marquee}
export PYTHONDONTWRITEBYTECODE=1
run() {
    local name=$1
    shift
    if ! report=$(python3 "$here/$name.py" --tiny --marquee "$program" "$@"); then
        echo "$report" >&2
        echo "$name: failed" >&2
        exit 1
    fi
    echo "$name: passed"
}
run 1_oom
run 2_release
run 3_ten_jobs --jobs 2 --only true,false
run 4_same_bytes
run 5_soak --jobs 64 --seconds 400
run 6_budgets --jobs 1 --budgets 16GiB
run 8_cold_start --starts 1

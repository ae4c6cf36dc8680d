#!/usr/bin/env bash
# Fuzzes what reads the wire, the log, the shared index, B-trees and settings, guided by coverage, for a fixed time per target.
# Fails when anything is found; what was found lies below tests/fuzz/target/findings.
#
#   scripts/fuzz.sh [seconds per target]        60 without an argument
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/tests/fuzz"
seconds=${1:-60}
export CARGO_TARGET_DIR=$PWD/target

# Stable flags of the compiler; what reads the coverage is libFuzzer, which libfuzzer-sys builds.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target triple named, build scripts and macros are left alone.
triple=$(rustc -vV | sed -n 's/^host: //p')
targets=(wire_request wire_response log wal_index rows settings)
cargo build --release --target "$triple" $(printf -- '--bin %s ' "${targets[@]}")
RUSTFLAGS='' cargo run --quiet --release --bin seed -- target/corpus

for target in "${targets[@]}"; do
  mkdir -p "target/corpus/$target" target/findings
  log=target/findings/$target.log
  if ! "target/$triple/release/$target" -max_total_time="$seconds" -seed=1 -max_len=8192 -timeout=10 \
    -rss_limit_mb=512 -print_final_stats=1 -artifact_prefix="target/findings/$target-" \
    "target/corpus/$target" >"$log" 2>&1; then
    tail -40 "$log"
    echo "fuzz: $target found something" >&2
    exit 1
  fi
  first=$(grep -o 'INITED cov: [0-9]*' "$log" | grep -o '[0-9]*$')
  last=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | grep -o '[0-9]*$')
  executions=$(sed -n 's/stat::number_of_executed_units: //p' "$log")
  echo "fuzz: $target: $executions executions, coverage $first -> $last, nothing found"
done

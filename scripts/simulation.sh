#!/usr/bin/env bash
# Runs many seeds of the simulation (src/simulation) on all cores, with an optimised build: simulation.sh [seeds [first]].
# Prints what was simulated; a seed that fails is made smaller, and its trace is printed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
seeds=${1:-10000}
first=${2:-0}
cores=$(nproc)

built=$(cargo test --lib --profile simulation --no-run 2>&1) || {
  printf '%s\n' "$built"
  exit 1
}
binary=$(sed -n 's/.*Executable.*(\(.*\))/\1/p' <<<"$built")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
share=$(((seeds + cores - 1) / cores))
running=()
for ((core = 0; core < cores; core++)); do
  from=$((first + core * share))
  count=$((first + seeds - from))
  ((count > share)) && count=$share
  ((count > 0)) || break
  # The threads of a run take turns: they are best off on one core.
  pin=()
  command -v taskset >/dev/null && pin=(taskset -c "$core")
  REPLICA_FIRST=$from REPLICA_SEEDS=$count "${pin[@]}" "$binary" simulation::tests::invariants --test-threads 1 --nocapture \
    >"$work/$core" 2>&1 &
  running+=($!)
done
failed=0
for process in "${running[@]}"; do
  wait "$process" || failed=1
done
grep -hv '^total\|^running\|^test \|^ok$\|^$' "$work"/* || true
awk '/^total/ { name = $0; sub(/^total +[0-9]+ /, "", name); if (!(name in sum)) order[++n] = name; sum[name] += $2 }
  END { for (i = 1; i <= n; i++) printf "%14d %s\n", sum[order[i]], order[i] }' "$work"/*
exit "$failed"

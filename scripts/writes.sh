#!/usr/bin/env bash
# What writing on a replica costs: latency by statements in a transaction and by the length of the line, round trips, bytes
# on the wire, syncs, and the throughput of replicas that are in each other's way. Figures, and ratios against plain SQLite
# and a bare HTTP round trip of the same run.
#
#   scripts/writes.sh [transactions]   of each kind; 100 without an argument; REPLICA_SO names another build of the extension
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
command -v strace >/dev/null || apt-get install -y --no-install-recommends strace
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-writes-XXXXXX")
trap 'rm -rf "$directory"' EXIT
/usr/bin/python3 "$root/scripts/writes.py" "$REPLICA_SO" "${1:-100}" "$directory"

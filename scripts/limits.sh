#!/usr/bin/env bash
# What many replicas in one process take: memory, descriptors and threads for each, at rest and while they follow, against as
# many databases of plain SQLite in the same run; and what is left of it when they are closed.
#
#   scripts/limits.sh [replicas]   100 without an argument; REPLICA_SO names another build of the extension
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-limits-XXXXXX")
trap 'rm -rf "$directory"' EXIT
ulimit -n "$(ulimit -Hn)"
/usr/bin/python3 "$root/scripts/limits.py" "$REPLICA_SO" "${1:-100}" "$directory"

#!/usr/bin/env bash
# A large database through a line that keeps breaking: served by one stock shell, fetched by another, within a bounded
# amount of memory in both. Needs disk for three times the size.
#
#   scripts/large.sh [MiB]        4096 without an argument; REPLICA_SO names another build of the extension
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
megabytes=${1:-4096}
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-large-XXXXXX")
trap 'rm -rf "$directory"' EXIT
/usr/bin/python3 "$root/scripts/large.py" "$REPLICA_SO" "$megabytes" "$directory"

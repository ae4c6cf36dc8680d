#!/usr/bin/env bash
# What writing offline costs: a rebase of a hundred changed rows by the size of the database, and days without a network
# (local transactions, disk, the push at their end). Figures, and ratios against plain SQLite of the same run.
#
#   scripts/offline.sh [transactions]  without the network; 100,000 without an argument; REPLICA_SO names another build of
#                                      the extension
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-offline-XXXXXX")
trap 'rm -rf "$directory"' EXIT
/usr/bin/python3 "$root/scripts/offline.py" "$REPLICA_SO" "${1:-100000}" "$directory"

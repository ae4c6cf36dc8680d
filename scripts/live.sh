#!/usr/bin/env bash
# How far live replicas trail their primary on loopback: the time from COMMIT on the primary (in the serving process, in
# another program, on another replica) until a replica in its own process reads the change, beside a bare HTTP round trip
# of the same run; and what a thousand followers of one primary cost.
#
#   scripts/live.sh [commits]   of each kind; 500 without an argument; REPLICA_SO names another build of the extension
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
export REPLICA_SO
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-live-XXXXXX")
trap 'rm -rf "$directory"' EXIT
/usr/bin/python3 "$root/scripts/live.py" "$REPLICA_SO" "${1:-500}" "$directory"
cargo test --release --manifest-path "$root/tests/Cargo.toml" --test following -- --nocapture a_thousand

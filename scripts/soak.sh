#!/usr/bin/env bash
# A soak: one primary and four live replicas in processes of their own, constant writes on the primary and on two of the
# replicas, readers that hold snapshots for up to a minute, a proxy that cuts, delays, swallows and garbles, processes that
# are ended and killed. At the end all hold the same, every acknowledged write is there, and logs, memory and
# descriptors have stayed bounded: it fails where not.
#
#   scripts/soak.sh [minutes [plot.svg]]   30 minutes and target/soak.svg without arguments; REPLICA_SO names another build
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${REPLICA_SO:-} ]]; then
  (cd "$root" && cargo build --release)
  REPLICA_SO=${CARGO_TARGET_DIR:-$root/target}/release/libreplica.so
fi
plot=${2:-$root/target/soak.svg}
mkdir -p "$(dirname "$plot")"
directory=$(mktemp -d "${TMPDIR:-/tmp}/replica-soak-XXXXXX")
trap 'rm -rf "$directory"' EXIT
/usr/bin/python3 "$root/scripts/soak.py" "$REPLICA_SO" "$directory" "${1:-30}" "$plot"

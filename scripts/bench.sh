#!/usr/bin/env bash
# Measures what the extension costs, on this machine and against a baseline in the same run, and prints a table with
# the targets. Nothing fails for being slow. A few minutes; an otherwise idle machine gives the better figures.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/set-up.sh
if [[ -z ${REPLICA_SO:-} ]]; then
  cargo build --release
  export REPLICA_SO=$root/target/release/libreplica.so
fi
cargo build --release --manifest-path tests/Cargo.toml --bin bench

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/debian.sh "$work"
cargo run --quiet --release --manifest-path tests/Cargo.toml --bin bench -- "$work"

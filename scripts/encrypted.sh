#!/usr/bin/env bash
# The suites of following a primary and writing to it, whole, with encryption at both ends and at either one: half an hour.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/set-up.sh hosts
cargo build --release
export REPLICA_SO=$root/target/release/libreplica.so
suites=(commits content delta history kill network places readers trouble two_syncers)
failed=0
for ends in both primary replica; do
  printf '\n== encrypted: %s\n' "$ends"
  REPLICA_TEST_ENCRYPTED=$ends cargo test --release --manifest-path tests/Cargo.toml --no-fail-fast \
    $(printf -- '--test %s ' "${suites[@]}") || failed=$?
done
exit "$failed"

#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints, unit tests, and the built extension in real hosts.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/set-up.sh hosts

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() { # words, command
  printf '\n== %s\n' "$1"
  shift
  "$@" 2>&1 | tee -a "$log"
}
has() { cargo "$1" --version >/dev/null 2>&1; }

for crate in . tests; do
  manifest=$crate/Cargo.toml
  if has fmt; then
    step "format of $crate" cargo fmt --manifest-path "$manifest" --check
  else
    echo "rustfmt is not installed: the format of $crate is not checked"
  fi
  if has clippy; then
    step "lints of $crate" cargo clippy --manifest-path "$manifest" --all-targets -- -D warnings
  else
    echo "clippy is not installed: $crate is not linted"
  fi
done

if has fmt; then
  step "format of tests/fuzz" cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
fi
step "unit tests" cargo test --lib
step "fuzz targets" scripts/fuzz.sh 5
step "the extension" cargo build --release
export REPLICA_SO=$root/target/release/libreplica.so
# The first failure does not hide the others, nor the counts.
passed=0
step "the extension in real hosts" cargo test --release --manifest-path tests/Cargo.toml --no-fail-fast || passed=$?

# What following a primary promises, with encryption; scripts/encrypted.sh runs all of it.
encrypted() { # ends, options of cargo test
  REPLICA_TEST_ENCRYPTED=$1 step "encrypted: $1" cargo test --release --manifest-path tests/Cargo.toml --no-fail-fast "${@:2}" || passed=$?
}
encrypted both --test history --test places
encrypted both --test commits --test offline_writes --test offline_rebase
encrypted replica --test commits
encrypted primary --test history --test places
encrypted replica --test history --test places

printf '\n== results\n'
grep -E '^ +Running |^test result:' "$log"
exit "$passed"

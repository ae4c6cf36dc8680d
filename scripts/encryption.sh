#!/usr/bin/env bash
# Measures what encryption costs, against plain SQLite, SQLite3 Multiple Ciphers (ChaCha20) and SQLCipher in the same run,
# through Python in every case, by the clock and in CPU time. Prints medians with extremes; nothing fails for being slow.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/set-up.sh hosts
if [[ -z ${REPLICA_SO:-} ]]; then
  cargo build --release
  export REPLICA_SO=$root/target/release/libreplica.so
fi
hosts=$root/tests/target/hosts
peer() { # folder package
  [[ -x $hosts/$1/bin/python3 ]] && "$hosts/$1/bin/python3" -c "import $3" 2>/dev/null && return
  /usr/bin/python3 -m venv --clear "$hosts/$1"
  "$hosts/$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$2"
}
peer sqlite3mc apsw-sqlite3mc apsw
peer sqlcipher sqlcipher3-wheels sqlcipher3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo bench --quiet --bench page
/usr/bin/python3 "$root/scripts/encryption.py" "$hosts" "$REPLICA_SO" "$work"

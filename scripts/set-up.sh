#!/usr/bin/env bash
# Installs what building, the tests and the demo need and this machine lacks. Debian and its relatives; run as root, or
# as a user who may sudo. Does nothing where everything is there. With the word `hosts`, also the hosts that only the
# tests need: APSW from PyPI, better-sqlite3 and libSQL's client from npm, below tests/target.
set -euo pipefail
hosts=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/tests/target/hosts
with_hosts=
[[ ${1:-} != hosts ]] || with_hosts=1
apsw=3.54.1.0
better_sqlite3=12.6.2
libsql_client=0.18.0
node_headers() { # the folder above include/node of the node in PATH
  dirname "$(dirname "$(readlink -f "$(command -v node)")")"
}

missing=()
need_command() { # command package
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need_package() {
  dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed' || missing+=("$1")
}

need_command gcc gcc
need_command clang clang
# Makes the certificates of the tests.
need_command openssl openssl
# bindgen reads SQLite's headers with libclang, and finds the compiler's own headers through clang.
need_package libclang-dev
need_package libsqlite3-dev
# By path: the tests run the system's own programs, whatever else comes first in PATH.
[[ -x /usr/bin/sqlite3 ]] || missing+=(sqlite3)
[[ -x /usr/bin/python3 ]] || missing+=(python3)

if [[ -n $with_hosts ]]; then
  need_package python3-venv
  need_command node nodejs
  need_command npm npm
  # better-sqlite3 is compiled here: its ready-made form does not come from the registry.
  need_command make make
  need_command g++ g++
  command -v node >/dev/null 2>&1 && [[ -e $(node_headers)/include/node/node.h ]] || missing+=(libnode-dev)
fi

if (( ${#missing[@]} > 0 )); then
  echo "installing: ${missing[*]}"
  as_root=()
  if (( EUID != 0 )); then
    command -v sudo >/dev/null 2>&1 || { echo "set-up needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  # The lists may be old or absent on a fresh machine.
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

command -v cargo >/dev/null 2>&1 || {
  echo "cargo is missing: install Rust 1.89 or newer (the package rustc of older Debian releases is too old)" >&2
  exit 1
}

[[ -n $with_hosts ]] || exit 0
mkdir -p "$hosts"

if [[ $("$hosts/apsw/bin/python3" -c 'import apsw; print(apsw.apsw_version())' 2>/dev/null) != "$apsw" ]]; then
  echo "installing APSW $apsw"
  /usr/bin/python3 -m venv --clear "$hosts/apsw"
  # Only the wheel: it brings its own SQLite, which is what makes it another host.
  "$hosts/apsw/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "apsw==$apsw"
fi

if ! (cd "$hosts/node" && node -e "
  const version = require('better-sqlite3/package.json').version;
  new (require('better-sqlite3'))(':memory:');
  process.exit(version === '$better_sqlite3' ? 0 : 1)") >/dev/null 2>&1; then
  echo "installing better-sqlite3 $better_sqlite3 (compiles it: a minute or two)"
  rm -rf "$hosts/node"
  mkdir -p "$hosts/node"
  echo '{"private": true}' >"$hosts/node/package.json"
  # From source, against the headers that came with this Node: nothing but the registry is asked.
  npm_config_build_from_source=true npm_config_nodedir=$(node_headers) \
    npm install --prefix "$hosts/node" --silent --no-audit --no-fund "better-sqlite3@$better_sqlite3"
fi

# Its way over HTTP only: the SQLite of its own, which comes ready-made, is left out.
if ! grep -qs "\"version\": \"$libsql_client\"" "$hosts/node/node_modules/@libsql/client/package.json"; then
  echo "installing @libsql/client $libsql_client"
  npm install --prefix "$hosts/node" --silent --no-audit --no-fund --omit=optional --ignore-scripts "@libsql/client@$libsql_client"
fi

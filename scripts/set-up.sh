#!/usr/bin/env bash
# Installs what building, the tests and the demo need and this machine lacks. Debian and its relatives; run as root, or
# as a user who may sudo. Does nothing where everything is there.
set -euo pipefail

missing=()
need_command() { # command package
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need_package() {
  dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed' || missing+=("$1")
}

need_command gcc gcc
need_command clang clang
# bindgen reads SQLite's headers with libclang, and finds the compiler's own headers through clang.
need_package libclang-dev
need_package libsqlite3-dev
# By path: the tests run the system's own programs, whatever else comes first in PATH.
[[ -x /usr/bin/sqlite3 ]] || missing+=(sqlite3)
[[ -x /usr/bin/python3 ]] || missing+=(python3)

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

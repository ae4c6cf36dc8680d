#!/usr/bin/env bash
# Makes a database of real data, DIRECTORY/debian.db: this machine's Debian package index, with a full-text index, by
# plain SQLite.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${1:?directory}
sqlite=/usr/bin/sqlite3

if (($(apt-cache dumpavail | grep -c '^Package:' || true) < 1000)); then
  echo "  The package lists are nearly empty; fetching them with apt-get update."
  if ((EUID == 0)); then apt-get update -qq; else sudo apt-get update -qq; fi
fi
apt-cache dumpavail | /usr/bin/python3 "$root/scripts/packages.py" "$work"
"$sqlite" -batch -init /dev/null "$work/debian.db" >/dev/null <<SQL
.bail on
PRAGMA journal_mode = WAL;
CREATE TABLE package(
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  architecture TEXT NOT NULL,
  section TEXT NOT NULL,
  priority TEXT NOT NULL,
  maintainer TEXT NOT NULL,
  installed_size INTEGER NOT NULL,
  size INTEGER NOT NULL,
  description TEXT NOT NULL,
  PRIMARY KEY(name, version, architecture)
);
CREATE TABLE dependency(
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  architecture TEXT NOT NULL,
  kind TEXT NOT NULL,
  position INTEGER NOT NULL,
  alternative INTEGER NOT NULL,
  depends_on TEXT NOT NULL,
  relation TEXT NOT NULL,
  required_version TEXT NOT NULL
);
BEGIN;
.import --csv $work/package.csv package
.import --csv $work/dependency.csv dependency
COMMIT;
CREATE INDEX dependency_of ON dependency(name, version, architecture);
CREATE INDEX dependency_on ON dependency(depends_on);
CREATE VIRTUAL TABLE description USING fts5(name, text, tokenize = 'porter unicode61');
INSERT INTO description(rowid, name, text) SELECT rowid, name, description FROM package;
SQL
rm "$work/package.csv" "$work/dependency.csv"

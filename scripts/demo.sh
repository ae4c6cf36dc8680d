#!/usr/bin/env bash
# The whole way on real data: this machine's Debian package index becomes a database, one stock sqlite3 shell serves it,
# another follows it. Says in words what happened; fails if anything differs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
scripts/set-up.sh
cargo build --release

work=$(mktemp -d)
primary_pid='' replica_pid=''
clean_up() {
  [[ -z $primary_pid ]] || kill "$primary_pid" 2>/dev/null || true
  [[ -z $replica_pid ]] || kill "$replica_pid" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
sqlite=/usr/bin/sqlite3
cp target/release/libreplica.so "$work/"

say() { printf '%s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
now() { date +%s%3N; }
size() { stat -c %s "$1"; }
# A number with thousands separators, in any locale.
count() { sed -E ':a;s/([0-9])([0-9]{3})($|,)/\1,\2\3/;ta' <<<"$1"; }
json() { "$sqlite" -batch -init /dev/null :memory: "SELECT json_extract('${1//\'/\'\'}', '\$.$2')" 2>/dev/null; }

# Each shell is a background process with a pipe in and a file out; a mark tells that it is done.
asked=0
run() { # name, statements: the shell's answer in $answer, its error in $refusal
  local name=$1 mark waited=0 in from
  asked=$((asked + 1))
  mark="=done-$asked="
  if [[ $name == primary ]]; then in=$primary_in; else in=$replica_in; fi
  from=$(($(size "$work/$name.out") + 1))
  printf '%s\n.print %s\n' "$2" "$mark" >&"$in"
  until tail -c "+$from" "$work/$name.out" | grep -qxF -- "$mark"; do
    sleep 0.01
    waited=$((waited + 1))
    ((waited < 30000)) || fail "the $name does not answer: $(cat "$work/$name.err")"
  done
  answer=$(tail -c "+$from" "$work/$name.out" | grep -vxF -- "$mark" || true)
  refusal=$(<"$work/$name.err")
  : >"$work/$name.err"
}
ask() { # name, statements that succeed: the shell's answer in $answer
  run "$@"
  [[ -z $refusal ]] || fail "the $1 says: $refusal"
}
start() { # name
  : >"$work/$1.out"
  : >"$work/$1.err"
  mkfifo "$work/$1.in"
  (cd "$work" && exec "$sqlite" -batch -noheader -init /dev/null) \
    <"$work/$1.in" >"$work/$1.out" 2>>"$work/$1.err" &
}
# By .sha3sum in both shells: their own reading of all rows and of the schema.
compare() { # words
  local left
  ask primary '.sha3sum --schema'
  left=$answer
  ask replica '.sha3sum --schema'
  [[ ${#left} == 56 && $left == "$answer" ]] || fail "$1: the contents differ: $left, $answer"
  ask replica 'SELECT replica_verify();'
  [[ $(json "$answer" ok) == 1 ]] || fail "$1: replica_verify says $answer"
  ask replica 'PRAGMA integrity_check;'
  [[ $answer == ok ]] || fail "$1: integrity_check says $answer"
  say "  Both shells compute the same .sha3sum (${left:0:16}...), replica_verify() and integrity_check agree."
}
tell_sync() {
  ask replica 'SELECT replica_sync();'
  local sync=$answer
  synced_transactions=$(json "$sync" transactions)
  synced_bytes=$(json "$sync" bytes_received)
  say "  replica_sync() brought $(count "$synced_transactions") transaction(s) as $(count "$(json "$sync" pages)")" \
    "changed page(s): $(count "$synced_bytes") bytes received in $(LC_ALL=C printf '%.0f' "$(json "$sync" milliseconds)") ms;" \
    "the database has $(count "$(size "$work/debian.db")") bytes."
}

say "1. A real database: this machine's Debian package index"
began=$(now)
scripts/debian.sh "$work"
packages=$("$sqlite" "$work/debian.db" 'SELECT count(*) FROM package')
dependencies=$("$sqlite" "$work/debian.db" 'SELECT count(*) FROM dependency')
((packages >= 1000 && dependencies >= 1000)) || fail "the package index is too small: $packages packages"
say "  $(count "$packages") packages with $(count "$dependencies") dependencies and a full-text index:" \
  "$(count "$(size "$work/debian.db")") bytes, built by plain SQLite in $(($(now) - began)) ms."

say "2. A stock shell serves it"
start primary
primary_pid=$!
exec {primary_in}>"$work/primary.in"
ask primary '.load ./libreplica
.open file:debian.db?vfs=replica
.timeout 5000'
began=$(now)
ask primary "SELECT replica_serve('127.0.0.1:0');"
url=$(json "$answer" url)
[[ $url == http://127.0.0.1:*/debian ]] || fail "replica_serve answered: $answer"
say "  SELECT replica_serve('127.0.0.1:0') in sqlite3 $("$sqlite" -version | cut -d' ' -f1): $url," \
  "ready in $(($(now) - began)) ms."

say "3. Another stock shell follows it in a local file"
start replica
replica_pid=$!
exec {replica_in}>"$work/replica.in"
began=$(now)
ask replica ".load ./libreplica
.open file:replica.db?vfs=replica&sync_url=$url
SELECT count(*) FROM package;"
[[ $answer == "$packages" ]] || fail "the replica counts $answer packages"
took=$(($(now) - began))
ask replica 'SELECT bytes_received FROM replica_status;'
whole=$answer
say "  The first query fetched the whole database: $(count "$whole") bytes received, answered after $took ms."
compare "after the bootstrap"

say "4. The primary changes"
ask primary "BEGIN;
UPDATE package SET version = version || '+deb.1' WHERE name = 'bash';
UPDATE dependency SET version = version || '+deb.1' WHERE name = 'bash';
COMMIT;
INSERT INTO package VALUES ('libreplica', '0.1.0', 'amd64', 'database', 'optional', 'demo', 1, 1, 'embedded replicas for stock SQLite');
INSERT INTO description(rowid, name, text) SELECT rowid, name, description FROM package WHERE name = 'libreplica';
DELETE FROM dependency WHERE kind = 'Enhances' AND name LIKE 'a%';"
say "  Four transactions in the serving shell: a new version of bash, a new package, its description, some deletions."
tell_sync
[[ $synced_transactions == 4 ]] || fail "four transactions were made, $synced_transactions arrived"
((synced_bytes * 20 < whole)) || fail "$synced_bytes bytes are too many for four small transactions"
ask replica "SELECT version FROM package WHERE name = 'bash'; SELECT name FROM description WHERE description MATCH 'embedded replica';"
[[ $answer == *+deb.1$'\n'libreplica ]] || fail "the replica's queries answer: $answer"
say "  The replica's full-text search finds the new package, from the local file."
compare "after the changes"

say "5. The replica writes: COMMIT returns when the primary has it"
ask replica 'SELECT bytes_sent FROM replica_status;'
sent=$answer
began=$(now)
ask replica "BEGIN;
UPDATE package SET version = version || '+local' WHERE name = 'bash';
INSERT INTO package VALUES ('from-the-replica', '1.0', 'amd64', 'database', 'optional', 'demo', 1, 1, 'written on the replica');
COMMIT;
SELECT count(*) FROM package WHERE name = 'from-the-replica';"
[[ $answer == 1 ]] || fail "the replica does not see its own write: $answer"
took=$(($(now) - began))
ask replica 'SELECT bytes_sent FROM replica_status;'
sent=$((answer - sent))
ask primary "SELECT version FROM package WHERE name = 'bash'; SELECT name FROM package WHERE name = 'from-the-replica';"
[[ $answer == *+local$'\n'from-the-replica ]] || fail "the primary answers: $answer"
say "  One transaction of two statements: $(count "$sent") bytes sent, committed on the primary and here in $took ms."
ask replica "SELECT replica_exec('DELETE FROM package WHERE name = ?', 'from-the-replica');"
[[ $(json "$answer" changes) == 1 ]] || fail "replica_exec answers: $answer"
ask replica "SELECT count(*) FROM package WHERE name = 'from-the-replica';"
[[ $answer == 0 ]] || fail "the replica does not see what replica_exec did: $answer"
say "  SELECT replica_exec('DELETE ...') ran on the primary; the replica has what it did."
compare "after the writes"

say "6. A program that has never heard of replicas writes the primary's file"
"$sqlite" -batch -init /dev/null "$work/debian.db" \
  "PRAGMA busy_timeout = 5000; CREATE INDEX package_section ON package(section, name); UPDATE package SET priority = 'required' WHERE name = 'sqlite3'" >/dev/null
say "  Plain sqlite3 made an index over all packages and an update."
tell_sync
[[ $synced_transactions == 2 ]] || fail "two transactions were made, $synced_transactions arrived"
compare "after the foreign program"

say "7. Nothing new"
tell_sync
[[ $synced_transactions == 0 ]] || fail "nothing was written, $synced_transactions transactions arrived"

say "8. The replica is an ordinary file for every SQLite program"
found=$("$sqlite" -batch -init /dev/null -readonly "$work/replica.db" \
  "SELECT count(*) FROM dependency WHERE depends_on = 'libc6' AND kind = 'Depends'")
expected=$("$sqlite" -batch -init /dev/null -readonly "$work/debian.db" \
  "SELECT count(*) FROM dependency WHERE depends_on = 'libc6' AND kind = 'Depends'")
[[ $found == "$expected" ]] || fail "plain sqlite3 counts $found on the replica, $expected on the primary"
say "  Plain sqlite3, without the extension, counts $(count "$found") packages that depend on libc6."
ask replica '.mode line
SELECT * FROM replica_status;'
say "  What the replica says of itself:"
sed 's/^/  /' <<<"$answer"

say "9. The same with encryption"
(umask 077 && echo 'correct horse battery staple' >"$work/sealed.key")
ask replica ".mode list
.open file:sealed.db?vfs=replica&sync_url=$url&key_file=$work/sealed.key
SELECT count(*) FROM package;"
counted=$answer
ask primary 'SELECT count(*) FROM package;'
[[ $counted == "$answer" ]] || fail "the encrypted replica counts $counted packages, the primary $answer"
compare "of the encrypted replica"
! grep -q libreplica "$work"/sealed.db* || fail "content of the encrypted replica is in the clear"
! plain=$("$sqlite" -batch -init /dev/null "$work/sealed.db" "SELECT count(*) FROM package" 2>&1) ||
  fail "plain sqlite3 reads the encrypted replica"
[[ $plain == *'not a database'* ]] || fail "plain sqlite3 says of the encrypted replica: $plain"
say "  A second replica, encrypted with the key in a file: plain sqlite3 says '${plain#*: }', no file holds 'libreplica'."

say "10. Offline: both sides write, and find each other again"
ask replica ".open file:offline.db?vfs=replica&sync_url=$url&offline=1
UPDATE package SET priority = 'local' WHERE name IN ('bash', 'dash');
INSERT INTO package VALUES ('from-the-road', '1.0', 'amd64', 'database', 'optional', 'demo', 1, 1, 'written without a network');
INSERT INTO description(rowid, name, text) SELECT rowid, name, description FROM package WHERE name = 'from-the-road';
SELECT pending_transactions || ' transactions, ' || pending_rows || ' rows on ' || pending_pages || ' pages' FROM replica_status;"
say "  Written in the local file only: $answer."
ask primary "UPDATE package SET priority = 'primary' WHERE name IN ('bash', 'grep');"
run replica 'SELECT replica_rebase();'
[[ $refusal == *'1 rows were changed here and on the remote'* ]] || fail "replica_rebase() says: $answer $refusal"
ask replica "SELECT json_extract(key, '$.name') || ' has the priority ' || json_extract(local, '$.priority') || ' here, '
|| json_extract(remote, '$.priority') || ' there' FROM replica_conflicts;"
say "  The primary changed two packages meanwhile, one of them the same. replica_rebase() refuses, replica_conflicts tells:" \
  "$answer."
ask replica "SELECT replica_rebase('local');"
say "  SELECT replica_rebase('local') decides: $(json "$answer" rows) rows put on top of the primary's," \
  "$(count "$(json "$answer" bytes_sent)") bytes sent."
ask primary "SELECT group_concat(name || ' ' || priority, ', ') FROM (SELECT * FROM package WHERE priority IN ('local', 'primary')
OR name = 'from-the-road' ORDER BY name);"
say "  The primary has $answer."
[[ $answer == 'bash local, dash local, from-the-road optional, grep primary' ]] || fail "that is wrong"
compare "after the rebase"

say "Everything is equal."

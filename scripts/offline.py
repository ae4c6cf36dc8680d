"""What scripts/offline.sh does: see there."""

import json
import os
import random
import sqlite3
import sys
import time

LIBRARY, TRANSACTIONS, DIRECTORY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SIZES = (10_000, 100_000, 1_000_000)
CHANGED = 100
SAME = 10  # of them, rows that the other side changed as well
OFTEN = 2000  # rows of the database that is written without the network


def at(name):
    return os.path.join(DIRECTORY, name)


def load():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(LIBRARY.removesuffix(".so"))


def connect(name, query=""):
    return sqlite3.connect(f"file:{at(name)}?vfs=replica{query}", uri=True, isolation_level=None, timeout=30)


def fill(name, rows):
    """Rows of some 90 bytes, with an index that the changes move entries of."""
    db = sqlite3.connect(at(name), isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, text TEXT NOT NULL)")
    db.execute("CREATE INDEX item_n ON item(n)")
    db.execute("BEGIN")
    numbers = random.Random(rows)
    db.executemany("INSERT INTO item VALUES (?, ?, ?)",
                   ((n, numbers.randrange(rows), f"item {n} " * 6) for n in range(rows)))
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def change(db, rows):
    db.execute("BEGIN")
    db.executemany("UPDATE item SET n = n + ? WHERE id = ?", rows)
    db.execute("COMMIT")


def milliseconds(work):
    began = time.perf_counter()
    result = work()
    return (time.perf_counter() - began) * 1e3, result


def ask(db, sql):
    return json.loads(db.execute(sql).fetchone()[0])


def compared(ours, theirs):
    """What a comparison of all rows of both files takes plain SQLite."""
    db = sqlite3.connect(at(ours))
    db.execute("ATTACH ? AS theirs", (at(theirs),))
    took, _ = milliseconds(lambda: db.execute(
        "SELECT count(*) FROM (SELECT * FROM main.item EXCEPT SELECT * FROM theirs.item)").fetchone())
    db.close()
    return took


def rebases():
    print(f"A rebase of {CHANGED} rows changed on each side, {SAME} of them on both, policy 'local'; milliseconds")
    for rows in SIZES:
        primary_name, copy_name, plain_name = f"app-{rows}.db", f"copy-{rows}.db", f"plain-{rows}.db"
        fill(primary_name, rows)
        fill(plain_name, rows)
        primary = connect(primary_name)
        url = ask(primary, "SELECT replica_serve('127.0.0.1:0')")["url"]
        copy = connect(copy_name, f"&sync_url={url}&offline=1")
        copy.execute("SELECT count(*) FROM item").fetchone()
        chosen = random.Random(7).sample(range(rows), 2 * CHANGED - SAME)
        change(copy, ((1, n) for n in chosen[:CHANGED]))
        change(primary, ((2, n) for n in chosen[CHANGED - SAME:]))
        plain = sqlite3.connect(at(plain_name), isolation_level=None)
        update, _ = milliseconds(lambda: change(plain, ((1, n) for n in chosen[:CHANGED])))
        plain.close()
        pages, = copy.execute("SELECT pending_pages FROM replica_status").fetchone()
        listing, found = milliseconds(lambda: copy.execute("SELECT count(*) FROM replica_changes").fetchone()[0])
        assert found == CHANGED, found
        whole = compared(primary_name, plain_name)
        took, report = milliseconds(lambda: ask(copy, "SELECT replica_rebase('local')"))
        same = "SELECT count(*), sum(n), sum(n * id) FROM item"
        assert copy.execute(same).fetchone() == primary.execute(same).fetchone()
        print(f"  {rows:9,} rows, {os.path.getsize(at(primary_name)) / 1e6:5.1f} MB, {pages} pages changed here: {took:6.1f}, "
              f"{report['bytes_received']:,} bytes received, {report['bytes_sent']:,} sent; replica_changes {listing:.1f}; "
              f"plain SQLite: the same update {update:.1f}, all rows compared {whole:.0f}, ratio {took / whole:.2f}")
        copy.close()
        primary.execute("SELECT replica_stop()")
        primary.close()


def on_disk(name):
    """Bytes of the database, of its log, and of the state store with its own log."""
    size = lambda suffix: os.path.getsize(at(name + suffix)) if os.path.exists(at(name + suffix)) else 0
    return size(""), size("-wal"), size("-replica") + size("-replica-wal")


def rate(db, count):
    numbers = random.Random(count)
    began = time.perf_counter()
    for _ in range(count):
        db.execute("UPDATE item SET n = n + 1 WHERE id = ?", (numbers.randrange(OFTEN),))
    return count / (time.perf_counter() - began)


def days():
    print(f"{TRANSACTIONS:,} transactions of one row each without the network")
    for name in ("days.db", "plain.db"):
        fill(name, OFTEN)
    primary = connect("days.db")
    url = ask(primary, "SELECT replica_serve('127.0.0.1:0')")["url"]
    online = connect("online.db", f"&sync_url={url}")
    online.execute("SELECT count(*) FROM item").fetchone()
    sent = lambda db: db.execute("SELECT bytes_sent FROM replica_status").fetchone()[0]
    before = sent(online)
    rate(online, 100)
    each = (sent(online) - before) / 100
    online.close()
    copy = connect("offline.db", f"&sync_url={url}&offline=1")
    copy.execute("SELECT count(*) FROM item").fetchone()
    plain = sqlite3.connect(at("plain.db"), isolation_level=None)
    for step in range(1, 6):
        ours, theirs = rate(copy, TRANSACTIONS // 5), rate(plain, TRANSACTIONS // 5)
        database, log, store = on_disk("offline.db")
        print(f"  after {TRANSACTIONS // 5 * step:9,}: {ours:6,.0f} a second (plain SQLite {theirs:,.0f}, ratio {ours / theirs:.2f}); "
              f"database {database / 1e6:.2f} MB, log {log / 1e6:.2f} MB, state store {store / 1e6:.2f} MB")
    pages, pending = copy.execute("SELECT pending_pages, pending_bytes FROM replica_status").fetchone()
    took, report = milliseconds(lambda: ask(copy, "SELECT replica_push()"))
    print(f"  push of all as one, {pages} pages ({pending:,} bytes): {report['bytes_sent']:,} bytes sent in {took:.0f} ms; "
          f"one by one, online: {each * TRANSACTIONS:,.0f} bytes ({each:.0f} each)")
    same = "SELECT count(*), sum(n), sum(n * id) FROM item"
    assert copy.execute(same).fetchone() == primary.execute(same).fetchone()
    copy.close()
    primary.execute("SELECT replica_stop()")
    primary.close()


load()
rebases()
days()

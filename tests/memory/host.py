"""A program whose threads share a replica in memory.

    host.py LIBRARY URI SECONDS

Accounts are moved about by several writers here, and by others on the primary; readers look at snapshots twice. Prints one
line of JSON: how often each succeeded, and what the end looks like.
"""

import json
import os
import random
import sqlite3
import sys
import threading
import time

library, uri, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
TOTAL = "SELECT sum(balance), count(*) FROM account"
counts = {"transfers": 0, "busy": 0, "reads": 0}
counting = threading.Lock()
problems = []


def connect():
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20)


def count(what):
    with counting:
        counts[what] += 1


def until_the_end(work):
    def run():
        own, end = connect(), time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                work(own)
        except Exception as error:  # pylint: disable=broad-except
            problems.append(repr(error))
        own.close()
    return threading.Thread(target=run)


def transfer(own):
    amount, first, second = random.randrange(100), random.randrange(100), random.randrange(100)
    try:
        own.execute("BEGIN IMMEDIATE")
        own.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, first))
        own.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, second))
        own.execute("UPDATE account SET here = here + 1 WHERE id = 0")
        own.execute("COMMIT")
        count("transfers")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xff != 5:
            raise
        if own.in_transaction:
            own.execute("ROLLBACK")
        count("busy")


def read(own):
    own.execute("BEGIN")
    first = own.execute(TOTAL).fetchone()
    time.sleep(random.uniform(0, 0.02))
    second = own.execute(TOTAL).fetchone()
    own.execute("COMMIT")
    if first != second or first != (100_000, 100):
        problems.append(f"a snapshot with {first}, and later {second}")
    count("reads")


def in_child():
    """The child of a fork has no replica of its parent's: it makes its own."""
    own = connect()
    assert own.execute(TOTAL).fetchone() == (100_000, 100)
    assert json.loads(own.execute("SELECT replica_verify()").fetchone()[0])["ok"]
    own.close()


loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(library)
first = connect()
assert first.execute(TOTAL).fetchone() == (100_000, 100)
child = os.fork()
if child == 0:
    try:
        in_child()
    except BaseException as error:  # pylint: disable=broad-except
        print(f"child: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)
if os.waitpid(child, 0)[1] != 0:
    problems.append("the child of a fork failed")
threads = [until_the_end(work) for work in [transfer] * 3 + [read] * 3]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
first.execute("SELECT replica_sync()")
print(json.dumps({
    **counts,
    "problems": problems,
    "here": first.execute("SELECT here FROM account WHERE id = 0").fetchone()[0],
    "rows": first.execute("SELECT json_group_array(json_array(id, balance, here, there)) FROM account").fetchone()[0],
    "verified": json.loads(first.execute("SELECT replica_verify()").fetchone()[0])["ok"],
    "integrity": first.execute("PRAGMA integrity_check").fetchone()[0],
    "log": first.execute("SELECT wal_bytes FROM replica_status").fetchone()[0],
}))
first.close()

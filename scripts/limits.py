"""What scripts/limits.sh does: see there."""

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time

LIBRARY = sys.argv[1]
PRIMARY = """
import json, sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
db = sqlite3.connect(f"file:{sys.argv[2]}?vfs=replica", uri=True, isolation_level=None)
print(db.execute("SELECT replica_serve('127.0.0.1:0')").fetchone()[0], flush=True)
for line in sys.stdin:
    db.execute("UPDATE item SET n = n + 1 WHERE id = ?", (int(line),))
    print("done", flush=True)
"""
COUNT = "SELECT count(*), sum(n) FROM item"


def taken():
    """Resident KiB, descriptors and threads of this process."""
    gc.collect()
    with open("/proc/self/status", encoding="ascii") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def connect(uri):
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.execute(COUNT).fetchone()
    return connection


class Limits:
    """Rounds of `count` databases each, of one kind."""

    def __init__(self, count, directory):
        self.count, self.directory = count, directory
        self.app = f"{directory}/app.db"
        maker = sqlite3.connect(self.app, isolation_level=None)
        maker.executescript("""
            PRAGMA journal_mode = WAL;
            CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, text TEXT);
            WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000)
              INSERT INTO item SELECT n, 0, printf('item %d %.100c', n, 'x') FROM c;""")
        maker.close()
        shutil.copy(self.app, f"{directory}/plain.db")
        self.primary = subprocess.Popen([sys.executable, "-c", PRIMARY, LIBRARY.removesuffix(".so"), self.app],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = json.loads(self.primary.stdout.readline())["url"]
        self.changes = 0

    def change(self):
        self.changes += 1
        self.primary.stdin.write(f"{self.changes}\n")
        self.primary.stdin.flush()
        self.primary.stdout.readline()

    def tell(self, what, before):
        now = taken()
        resident, descriptors, threads = (b - a for a, b in zip(before, now))
        print(f"  {what}: {resident / self.count:.0f} KiB, {descriptors / self.count:.2f} descriptors, "
              f"{threads / self.count:.2f} threads for each", flush=True)

    def round(self, name, uri, follows):
        print(f"{name}:")
        before = taken()
        open_ones = [connect(uri(number)) for number in range(self.count)]
        self.tell("open", before)
        if follows:
            for _ in range(5):
                self.change()
                begun = time.monotonic()
                while any(one.execute(COUNT).fetchone()[1] != self.changes for one in open_ones):
                    time.sleep(0.02)
                took = time.monotonic() - begun
            self.tell(f"followed 5 changes (all had the last one after {took * 1000:.0f} ms)", before)
        for one in open_ones:
            one.close()
        del open_ones
        time.sleep(0.5)
        self.tell("closed", before)

    def plain(self, number):
        path = f"{self.directory}/plain{number}.db"
        if not os.path.exists(path):
            shutil.copy(f"{self.directory}/plain.db", path)
        return f"file:{path}"

    def replica(self, kind, parameters):
        return lambda number: (f"file:{self.directory}/{kind}{number}.db?vfs=replica&sync_url={self.url}"
                               f"&{parameters}")


def main():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(LIBRARY.removesuffix(".so"))
    limits = Limits(int(sys.argv[2]), sys.argv[3])
    limits.round("plain SQLite, first time", limits.plain, False)
    limits.round("plain SQLite", limits.plain, False)
    limits.round("replicas, made", limits.replica("copy", "live=0"), False)
    limits.round("replicas, on call", limits.replica("copy", "live=0"), False)
    limits.round("replicas, sync_interval=1", limits.replica("copy", "sync_interval=1&live=0"), True)
    limits.round("replicas, live=1", limits.replica("copy", "sync_interval=0&live=1"), True)
    key = "hex:" + "5a" * 32
    limits.round("replicas, encrypted, live=1", limits.replica("sealed", f"live=1&encryption_key={key}"), True)
    limits.round("replicas, storage=memory, live=1", limits.replica("memory", "live=1&storage=memory"), True)
    limits.round("replicas, live=1, again", limits.replica("copy", "sync_interval=0&live=1"), True)
    limits.primary.stdin.close()
    limits.primary.wait()


main()

"""What scripts/live.sh does: see there. Times of all processes are those of one clock (CLOCK_MONOTONIC)."""

import http.client
import json
import sqlite3
import subprocess
import sys
import time
import urllib.parse

LIBRARY, COMMITS, DIRECTORY = sys.argv[1].removesuffix(".so"), int(sys.argv[2]), sys.argv[3]
APP = f"{DIRECTORY}/app.db"
WRITER = """
import sqlite3, sys, time
library, uri, serves = sys.argv[1:4]
loader = sqlite3.connect(":memory:")
if library:
    loader.enable_load_extension(True)
    loader.load_extension(library)
db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20)
print(db.execute("SELECT replica_serve('127.0.0.1:0')").fetchone()[0] if serves else "ready", flush=True)
for line in sys.stdin:
    while True:
        try:
            db.execute("UPDATE item SET n = ? WHERE id = 1", (int(line),))
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
    print(time.monotonic(), flush=True)
"""


class Writer:
    """A process that commits when it is told to."""

    def __init__(self, library, uri, serves=False):
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, library, uri, "1" if serves else ""],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.process.stdout.readline()

    def tell(self, number):
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def committed(self):
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def print_times(what, times):
    times.sort()
    share = [times[int((len(times) - 1) * part)] * 1000 for part in (0.5, 0.9, 0.99)]
    print(f"{what}: p50 {share[0]:.3f} ms, p90 {share[1]:.3f} ms, p99 {share[2]:.3f} ms", flush=True)


def round_trips(url):
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    times = []
    for _ in range(COMMITS):
        begun = time.monotonic()
        connection.request("GET", "/health")
        connection.getresponse().read()
        times.append(time.monotonic() - begun)
    print_times("a bare HTTP round trip", times)


def trail(what, replica, writer, first):
    """How long after COMMIT had returned the replica read what was committed. It may have done so before."""
    times = []
    for number in range(first, first + COMMITS):
        time.sleep(0.003)
        writer.tell(number)
        while replica.execute("SELECT n FROM item WHERE id = 1").fetchone()[0] != number:
            pass
        seen = time.monotonic()
        times.append(max(seen - writer.committed(), 0))
    print_times(what, times)


def main():
    maker = sqlite3.connect(APP)
    maker.executescript("""
        PRAGMA journal_mode = WAL;
        CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, text TEXT);
        WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10000)
          INSERT INTO item SELECT n, 0, printf('item %d %.50c', n, 'x') FROM c;""")
    maker.close()
    primary = Writer(LIBRARY, f"file:{APP}?vfs=replica", True)
    url = json.loads(primary.ready)["url"]
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(LIBRARY)

    def uri(name):
        return f"file:{DIRECTORY}/{name}.db?vfs=replica&sync_url={url}&live=1"

    replica = sqlite3.connect(uri("replica"), uri=True, isolation_level=None)
    replica.execute("SELECT count(*) FROM item").fetchone()
    time.sleep(0.5)
    round_trips(url)
    trail("a commit of the serving process", replica, primary, 1)
    plain = Writer("", f"file:{APP}")
    trail("a commit of plain SQLite in another process", replica, plain, 10_001)
    plain.close()
    other = Writer(LIBRARY, uri("other"))
    trail("a commit of another live replica", replica, other, 20_001)
    other.close()
    replica.close()
    primary.close()


main()

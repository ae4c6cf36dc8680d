"""What scripts/writes.sh does: see there."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

LIBRARY, TRANSACTIONS, DIRECTORY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ROWS = 2000


class Line:
    """A relay: counts bytes and turns from asking to answering, and delays each direction by half of `delay` seconds."""

    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self.delay = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.take()
        threading.Thread(target=self.accept, daemon=True).start()

    def take(self):
        """The counts since the last time."""
        counts = getattr(self, "counts", None)
        self.counts = {"bytes": 0, "round trips": 0}
        return counts

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            turn = {"asking": False}
            for source, target, asks in ((client, server, True), (server, client, False)):
                for end in (source, target):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(source, target, asks, turn), daemon=True).start()

    def pump(self, source, target, asks, turn):
        try:
            while data := source.recv(1 << 16):
                self.counts["bytes"] += len(data)
                if asks and not turn["asking"]:
                    self.counts["round trips"] += 1
                turn["asking"] = asks
                if self.delay:
                    time.sleep(self.delay / 2)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def connect(uri):
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(LIBRARY.removesuffix(".so"))
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)


def fill(path):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, text TEXT NOT NULL)")
    db.execute("BEGIN")
    for n in range(ROWS):
        db.execute("INSERT INTO item VALUES (?, 0, ?)", (n, f"item {n} " * 5))
    db.execute("COMMIT")
    db.close()


def transact(db, statements, first):
    db.execute("BEGIN IMMEDIATE")
    for n in range(statements):
        db.execute("UPDATE item SET n = n + 1 WHERE id = ?", ((first + n * 97) % ROWS,))
    db.execute("COMMIT")


def figures(times):
    times = sorted(times)
    return times[len(times) // 2] * 1e3, times[min(len(times) - 1, len(times) * 99 // 100)] * 1e3


def timed(work, count):
    times = []
    for n in range(count):
        began = time.perf_counter()
        work(n)
        times.append(time.perf_counter() - began)
    return figures(times)


def bare(port, count):
    """A round trip of HTTP that does nothing, on a kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(_):
        connection.request("GET", "/health")
        connection.getresponse().read()

    ask(0)
    return timed(ask, count)


def serve(path):
    """A primary in a process of its own; it and its URL's port."""
    code = (
        "import sqlite3, sys, json\n"
        "loader = sqlite3.connect(':memory:'); loader.enable_load_extension(True)\n"
        f"loader.load_extension({LIBRARY.removesuffix('.so')!r})\n"
        f"db = sqlite3.connect('file:{path}?vfs=replica', uri=True, isolation_level=None)\n"
        "print(json.loads(db.execute(\"SELECT replica_serve('127.0.0.1:0')\").fetchone()[0])['url'], flush=True)\n"
        "sys.stdin.read()\n")
    process = subprocess.Popen(["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    return process, int(url.split(":")[2].split("/")[0])


def syncs(process, work):
    """How often a process called fsync and fdatasync meanwhile."""
    output = os.path.join(DIRECTORY, "strace")
    trace = subprocess.Popen(
        ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", output, "-p", str(process)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    work()
    trace.send_signal(signal.SIGINT)
    trace.wait()
    with open(output) as lines:
        return sum("sync(" in line for line in lines)


CONTENDER = """
import sqlite3, sys, time
library, uri, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
loader = sqlite3.connect(':memory:'); loader.enable_load_extension(True); loader.load_extension(library)
db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
db.execute('SELECT count(*) FROM item').fetchone()
print('ready', flush=True); sys.stdin.readline()
done = again = 0
while done < count:
    try:
        db.execute('UPDATE item SET n = n + 1 WHERE id = 0')
        done += 1
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xff != 5 if hasattr(error, 'sqlite_errorcode') else 'locked' not in str(error):
            raise
        again += 1
print(again, flush=True)
"""


def contention(port, mode, each):
    workers = []
    for n in range(4):
        uri = f"file:{DIRECTORY}/contender-{mode}-{n}.db?vfs=replica&sync_url=http://127.0.0.1:{port}/app&write_mode={mode}"
        workers.append(subprocess.Popen(
            ["/usr/bin/python3", "-c", CONTENDER, LIBRARY.removesuffix(".so"), uri, str(each)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    again = sum(int(worker.stdout.readline()) for worker in workers)
    took = time.perf_counter() - began
    for worker in workers:
        worker.wait()
    return 4 * each / took, again


def latency(db, plain, line, port):
    print("A transaction, milliseconds: p50, p99, round trips, bytes both ways with HTTP")
    for delay in (0.0, 0.03):
        line.delay = 0.0
        count = TRANSACTIONS if delay == 0 else max(10, TRANSACTIONS // 4)
        p50, p99 = bare(line.port if delay else port, count)
        line.delay = delay
        print(f"  with {delay * 1e3:.0f} ms of added delay (a bare HTTP round trip without it: {p50:.2f}, {p99:.2f})")
        for statements in (1, 5, 20):
            base, worst = timed(lambda n: transact(plain, statements, n), count)
            transact(db, statements, 0)
            line.take()
            p50, p99 = timed(lambda n: transact(db, statements, n), count)
            counts = line.take()
            print(f"    {statements:2} statements: {p50:7.2f} {p99:7.2f}   {counts['round trips'] / count:.2f} round trips, "
                  f"{counts['bytes'] / count:6.0f} bytes   plain SQLite {base:.2f} {worst:.2f}, ratio {p50 / base:.1f}")
        time.sleep(1.2)
        line.take()
        p50, _ = timed(lambda n: transact(db, 1, n), 1)
        counts = line.take()
        print(f"    after a pause of 1.2 s: {p50:.2f}, {counts['round trips']} round trips")
    line.delay = 0.0


def size(db, line):
    print("Bytes both ways, HTTP heads included, median of 50")
    for name, sql in (
        ("insert of one row", "INSERT INTO item(n, text) VALUES (1, 'one more row')"),
        ("update of one byte", "UPDATE item SET n = (n + 1) % 100 WHERE id = 700"),
    ):
        found = []
        for _ in range(50):
            line.take()
            db.execute(sql)
            found.append(line.take()["bytes"])
        print(f"  {name}: {sorted(found)[25]}")


def main():
    app, copy, local = (os.path.join(DIRECTORY, name) for name in ("app.db", "copy.db", "plain.db"))
    fill(app)
    fill(local)
    primary, port = serve(app)
    line = Line(port)
    db = connect(f"file:{copy}?vfs=replica&sync_url=http://127.0.0.1:{line.port}/app")
    db.execute("SELECT count(*) FROM item").fetchone()
    plain = sqlite3.connect(local, isolation_level=None)
    latency(db, plain, line, port)
    size(db, line)

    def fifty():
        for n in range(50):
            transact(db, 1, n)

    print("Syncs of a commit")
    print(f"  primary: {syncs(primary.pid, fifty) / 50:.2f}")
    print(f"  replica: {syncs(os.getpid(), fifty) / 50:.2f}")
    print("Four replicas that add to the same number: transactions a second, and how often each had to be run again")
    for mode in ("auto", "exclusive", "optimistic"):
        rate, again = contention(port, mode, TRANSACTIONS)
        print(f"  {mode:10} {rate:6.0f} a second, {again / (4 * TRANSACTIONS):.2f} times again")
    primary.stdin.close()
    primary.wait()


main()

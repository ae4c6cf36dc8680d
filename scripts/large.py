"""What scripts/large.sh does: see there."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

LIBRARY, MEGABYTES, DIRECTORY = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SHELL = "/usr/bin/sqlite3"
BREAKS = 20
LIMIT_MB = 64
RANDOM = random.Random(1)


class Shell:
    """A stock shell as a child process."""

    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen(
            [SHELL, "-batch", "-noheader", "-init", "/dev/null"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ask(self, text):
        end = "" if text.startswith(".") else ";"
        self.process.stdin.write(f"{text}{end}\n.print =end=\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "=end=\n":
                return "".join(lines).strip()
            lines.append(line)
        sys.exit(f"{self.name} ended: {''.join(lines)}")

    def sql(self, text):
        answer = self.ask(text)
        if "Error" in answer or "error" in answer:
            sys.exit(f"{self.name}: {text}\n{answer}")
        return answer

    def open(self, uri):
        self.sql(f".load {LIBRARY.removesuffix('.so')}")
        self.sql(f'.open "{uri}"')

    def peak(self):
        """The most memory it ever had, in MB (VmHWM)."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Line:
    """A TCP relay that breaks its connection each time enough has come through."""

    def __init__(self, host, port, total):
        self.target, self.received, self.breaks = (host, port), 0, 0
        self.next_break, self.step = total // (BREAKS + 2), total // (BREAKS + 2)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            for source, sink, counted in ((client, server, False), (server, client, True)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.copy, args=(source, sink, counted), daemon=True).start()

    def copy(self, source, sink, counted):
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self.received += len(data)
                    if self.breaks < BREAKS and self.received >= self.next_break:
                        self.breaks += 1
                        self.next_break = self.received + self.step
                        data = data[:RANDOM.randrange(len(data))]
                        sink.sendall(data)
                        break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def make(path):
    """A database whose pages compress about as well as text: half of each row is random."""
    begun = time.monotonic()
    shell = Shell("maker")
    shell.sql(f'.open "{path}"')
    shell.sql("PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;"
              "CREATE TABLE big(id INTEGER PRIMARY KEY, n INTEGER, b BLOB, z TEXT)")
    rows = MEGABYTES * 256
    shell.sql("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < "
              f"{rows}) INSERT INTO big SELECT i, 0, randomblob(1900), printf('%.1900c', 'x') FROM c")
    shell.sql("PRAGMA journal_mode = WAL")
    shell.close()
    print(f"made {os.path.getsize(path) >> 20} MiB in {time.monotonic() - begun:.0f} s", flush=True)


def empty(path):
    """What a shell takes that has the same file open and reads none of it to speak of."""
    shell = Shell("empty host")
    shell.sql(f'.open "{path}"')
    shell.sql("SELECT count(*) FROM sqlite_schema; SELECT max(id) FROM big")
    peak = shell.peak()
    shell.close()
    return peak


def timed(what, work):
    begun = time.monotonic()
    answer = work()
    print(f"{what}: {time.monotonic() - begun:.1f} s {answer}", flush=True)
    return answer


def same(app, copy):
    # Both logs are in the files, as their last connections are closed.
    return subprocess.run(["cmp", "-s", app, copy], check=False).returncode == 0


def main():
    app, copy = f"{DIRECTORY}/app.db", f"{DIRECTORY}/replica.db"
    make(app)
    own = empty(app)
    print(f"an empty host: {own:.1f} MB")
    primary, replica = Shell("primary"), Shell("replica")
    primary.open(f"file:{app}?vfs=replica")
    url = json.loads(timed("serve", lambda: primary.sql("SELECT replica_serve('127.0.0.1:0')")))["url"]
    host, port = url.split("/")[2].split(":")
    size = os.path.getsize(app)
    line = Line(host, int(port), size // 2)
    replica.open(f"file:{copy}?vfs=replica&sync_url=http://127.0.0.1:{line.port}/app")
    failed = 0

    def bootstrap():
        nonlocal failed
        for _ in range(BREAKS + 1):
            answer = replica.ask("SELECT max(id) FROM big")
            if answer == str(MEGABYTES * 256):
                return f"({failed} statements failed)"
            failed += 1
        sys.exit(f"the replica is not made: {answer}")

    timed("bootstrap", bootstrap)
    received, breaks = line.received, line.breaks
    print(f"{received >> 20} MiB received for {size >> 20} MiB; the line broke {breaks} times")
    peaks = {"primary, bootstrap": primary.peak() - own, "replica, bootstrap": replica.peak() - own}
    # Every page changes, in transactions of a bearable size; then one batch with all of it.
    step = MEGABYTES * 256 // 8 + 1
    plain = Shell("writer")
    plain.sql(f'.open "{app}"')
    plain.sql(".timeout 60000")
    for first in range(1, MEGABYTES * 256, step):
        plain.sql(f"UPDATE big SET n = n + 1 WHERE id BETWEEN {first} AND {first + step - 1}")
    plain.close()
    timed("a batch of all pages", lambda: replica.sql("SELECT replica_sync()"))
    peaks |= {"primary, batch": primary.peak() - own, "replica, batch": replica.peak() - own}
    verified = json.loads(timed("verify", lambda: replica.sql("SELECT replica_verify()")))
    timed("discard", lambda: replica.sql("SELECT replica_discard()"))
    peaks |= {"primary, comparison": primary.peak() - own, "replica, comparison": replica.peak() - own}
    for shell in (replica, primary):
        shell.sql("PRAGMA wal_checkpoint")
        shell.close()
    for path in (app, copy):
        plain = Shell("closer")
        plain.sql(f'.open "{path}"')
        plain.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        plain.close()
    for what, peak in peaks.items():
        print(f"{what}: {peak:.1f} MB over an empty host")
    faults = []
    if breaks < BREAKS:
        faults.append(f"the line broke {breaks} times only")
    # Half of the content compresses away; each break costs a part, each failed statement what was not synced yet.
    if received > size * 0.6 + breaks * (2 << 20) + failed * (32 << 20):
        faults.append(f"{received >> 20} MiB were received: parts of it were fetched again")
    if not verified["ok"]:
        faults.append("replica_verify() found bad pages")
    if not same(app, copy):
        faults.append("the files differ")
    faults += [f"{what}: {peak:.1f} MB" for what, peak in peaks.items() if peak > LIMIT_MB]
    if faults:
        sys.exit("FAILED: " + "; ".join(faults))
    print("passed")


main()

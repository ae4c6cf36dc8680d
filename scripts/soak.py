"""What scripts/soak.sh does: see there.

The process that runs it has no extension loaded. It starts this file again for each primary and replica, which take
commands on standard input and answer in lines of JSON.
"""

import hashlib
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time

ACCOUNTS, TOTAL, BLOBS, BLOB_BYTES = 1000, 1_000_000, 400, 2000
REPLICAS = 4
# These replicas write, too; this one is encrypted.
WRITERS, ENCRYPTED = (0, 1), 2
LONGEST_SNAPSHOT = 60
BUSY, IOERR = 5, 10
MIB = 1 << 20
# How much of a log may be in use where nothing holds it back, and at all.
SHORT_LOG, LONGEST_LOG = 8 * MIB, 512 * MIB
# A log begins anew with what is written when no snapshot needs it: before so many seconds are together in which none did,
# and the replica was in contact with its primary (in the last seconds), it has to be short again.
FREE, CONTACT = 10, 3
CONVERGED = 120


# ---- a primary or a replica

class Role:
    """One process with a database: its threads, and what it tells."""

    def __init__(self, library, name, uri, directory):
        self.name, self.uri, self.directory = name, uri, directory
        self.quiet, self.ending = threading.Event(), threading.Event()
        # Whether a reader holds a snapshot that the log may not pass.
        self.holding = False
        self.random = random.Random()
        self.printing = threading.Lock()
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(library.removesuffix(".so"))
        self.threads = []

    def connect(self):
        connection = sqlite3.connect(self.uri, uri=True, isolation_level=None, check_same_thread=False, timeout=20)
        return connection

    def say(self, **values):
        with self.printing:
            print(json.dumps(values), flush=True)

    def problem(self, text):
        self.say(problem=f"{self.name}: {text}")

    def start(self, work, *arguments):
        def guarded():
            try:
                work(*arguments)
            except Exception as error:  # pylint: disable=broad-except
                self.problem(f"{work.__name__}: {type(error).__name__}: {error}")
        self.threads.append(threading.Thread(target=guarded))
        self.threads[-1].start()

    def write(self, pause):
        """Transfers that keep the total, and a counter of this writer's transactions."""
        connection = self.connect()
        acknowledged = Counter(f"{self.directory}/{self.name}.acknowledged")
        unknown = Counter(f"{self.directory}/{self.name}.unknown")
        while not self.quiet.wait(self.random.uniform(0, pause)):
            amount, first, second = (self.random.randrange(1, n) for n in (100, ACCOUNTS, ACCOUNTS))
            try:
                connection.execute("BEGIN IMMEDIATE")
                for sign, account in ((-1, first), (1, second)):
                    connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (sign * amount, account))
                connection.execute("UPDATE blob SET bytes = randomblob(?) WHERE id = ?",
                                   (BLOB_BYTES, self.random.randrange(BLOBS)))
                connection.execute("INSERT INTO counter VALUES (?, 1) ON CONFLICT DO UPDATE SET n = n + 1", (self.name,))
                connection.execute("COMMIT")
                acknowledged.add()
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                code = error.sqlite_errorcode & 0xff
                if code == IOERR:
                    unknown.add()
                    time.sleep(0.2)
                elif code != BUSY:
                    why = connection.execute("SELECT replica_last_error()").fetchone()[0]
                    self.problem(f"write: {error} ({error.sqlite_errorname}): {why}")
        connection.close()

    def read(self, longest, pause):
        """Looks at one snapshot twice, some time apart."""
        connection = self.connect()
        ask = "SELECT sum(balance), (SELECT count(*) FROM blob), (SELECT sum(n) FROM counter) FROM account"
        while not self.quiet.is_set():
            self.holding |= longest > 1
            connection.execute("BEGIN")
            first = connection.execute(ask).fetchone()
            self.quiet.wait(self.random.uniform(0, longest))
            second = connection.execute(ask).fetchone()
            connection.execute("COMMIT")
            self.holding &= longest <= 1
            if first != second or first[:2] != (TOTAL, BLOBS):
                self.problem(f"a snapshot with {first}, and later {second}")
            self.quiet.wait(self.random.uniform(0, pause))
        connection.close()

    def tell(self, connection):
        while not self.ending.wait(1):
            row = connection.execute(
                "SELECT lag_transactions, lag_seconds, state, last_error FROM replica_status").fetchone()
            self.say(lag=row[0], contact=(row[1] or 0) < CONTACT, state=row[2], error=row[3], holding=self.holding)

    def check(self, connection):
        whole = hashlib.sha256()
        for table in ("account", "blob", "counter"):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
                whole.update(repr(row).encode())
        verified = json.loads(connection.execute("SELECT replica_verify()").fetchone()[0])
        self.say(checksum=whole.hexdigest(), verified=verified["ok"],
                 integrity=connection.execute("PRAGMA integrity_check").fetchone()[0],
                 counters=dict(connection.execute("SELECT * FROM counter")))

    @staticmethod
    def commands():
        """Lines of standard input, until it ends or SIGTERM comes."""
        class Terminated(Exception):
            """Raised by the signal."""

        def terminated(*_):
            raise Terminated
        signal.signal(signal.SIGTERM, terminated)
        try:
            yield from sys.stdin
        except Terminated:
            pass

    def obey(self, connection):
        for line in self.commands():
            command = line.strip()
            if command == "quiet":
                self.quiet.set()
            elif command == "position":
                self.say(position=connection.execute("SELECT replica_position()").fetchone()[0])
            elif command == "check":
                self.check(connection)
            elif command == "end":
                break
        self.quiet.set()
        self.ending.set()
        for thread in self.threads:
            thread.join()
        connection.close()


class Counter:
    """A number in a file that outlives the process."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.number = int(os.read(self.file, 20) or 0)

    def add(self):
        self.number += 1
        os.pwrite(self.file, str(self.number).encode(), 0)


def counted(path):
    return int(open(path, encoding="ascii").read() or 0) if os.path.exists(path) else 0


def role(library, name, uri, directory, port):
    this = Role(library, name, uri, directory)
    connection = this.connect()
    if name == "primary":
        connection.execute("SELECT replica_serve(?)", (f"127.0.0.1:{port}",))
        this.start(this.write, 0.02)
        this.start(this.tell, connection)
    else:
        # The first access makes the replica, as soon as the primary can be reached.
        while True:
            try:
                connection.execute("SELECT count(*) FROM account").fetchone()
                break
            except sqlite3.OperationalError:
                time.sleep(0.2)
        if int(name[-1]) in WRITERS:
            this.start(this.write, 0.1)
        this.start(this.tell, connection)
    this.start(this.read, LONGEST_SNAPSHOT, 5)
    this.start(this.read, 0.01, 0.1)
    this.say(started=True)
    this.obey(connection)


# ---- the process that runs it

class Proxy:
    """Between a replica and the primary: each connection may be another kind of bad line."""

    KINDS = ["good"] * 8 + ["cut", "slow", "late", "swallow", "garbage"]

    def __init__(self, port):
        self.target, self.faults, self.random = ("127.0.0.1", port), True, random.Random()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.ends, self.counts = [], {}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            kind = self.random.choice(self.KINDS) if self.faults else "good"
            self.counts[kind] = self.counts.get(kind, 0) + 1
            threading.Thread(target=self.connection, args=(client, kind), daemon=True).start()

    def connection(self, client, kind):
        if kind == "garbage":
            client.recv(1)
            client.sendall(self.random.randbytes(500))
            client.close()
            return
        if kind == "swallow":
            self.ends.append(client)
            time.sleep(self.random.uniform(1, 15))
            client.close()
            return
        try:
            server = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self.ends += [client, server]
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.copy, args=(source, sink, kind), daemon=True).start()

    def copy(self, source, sink, kind):
        left = self.random.randrange(1, 200_000) if kind == "cut" else None
        try:
            while data := source.recv(1 << 14):
                if kind == "slow":
                    time.sleep(len(data) / 50_000)
                if kind == "late":
                    time.sleep(self.random.uniform(0, 0.3))
                if left is not None:
                    data, left = data[:left], left - len(data)
                sink.sendall(data)
                if left is not None and left <= 0:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def heal(self):
        """Good from here on; what is under way is broken off."""
        self.faults = False
        for end in self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Process:
    """A primary or replica, started again whenever it has ended."""

    def __init__(self, soak, name, uri, port=0):
        self.soak, self.name, self.uri, self.port = soak, name, uri, port
        self.kills, self.lag, self.last, self.process = 0, 0, {}, None
        self.answers = {}
        self.start()

    def start(self):
        command = [sys.executable, __file__, "role", self.soak.library, self.name, self.uri, self.soak.directory, str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started = threading.Event()
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def listen(self, process):
        for line in process.stdout:
            told = json.loads(line)
            if "problem" in told:
                self.soak.problems.append(told["problem"])
            elif "lag" in told:
                self.last, self.lag = told, told["lag"] or 0
            elif "started" in told:
                self.started.set()
            else:
                self.answers.update(told)

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command, answer, seconds=60):
        self.answers.pop(answer, None)
        self.tell(command)
        until = time.monotonic() + seconds
        while answer not in self.answers:
            if time.monotonic() > until:
                sys.exit(f"FAILED: {self.name} does not answer to '{command}'")
            time.sleep(0.02)
        return self.answers[answer]

    def end(self, how):
        self.kills += how == signal.SIGKILL
        self.process.send_signal(how) if how else self.tell("end")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.soak.problems.append(f"{self.name} did not end within 30 s")
            self.process.kill()
            self.process.wait()

    def resident(self):
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
                line = next(line for line in status if line.startswith("VmRSS"))
            return int(line.split()[1]) << 10
        except (OSError, StopIteration):
            return 0

    def descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except OSError:
            return 0


class Soak:
    """All of it."""

    def __init__(self, library, directory, minutes, plot):
        self.library, self.directory, self.seconds, self.plot = library, directory, minutes * 60, plot
        self.problems, self.samples, self.free = [], [], {}
        self.random = random.Random()
        port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
        self.files = {"primary": f"{directory}/app.db"}
        self.make(self.files["primary"])
        self.processes = {"primary": Process(self, "primary", f"file:{self.files['primary']}?vfs=replica", port)}
        self.proxies = []
        for number in range(REPLICAS):
            name, proxy = f"replica{number}", Proxy(port)
            self.proxies.append(proxy)
            self.files[name] = f"{directory}/{name}.db"
            key = "&encryption_key=soak" if number == ENCRYPTED else ""
            uri = (f"file:{self.files[name]}?vfs=replica&sync_url=http://127.0.0.1:{proxy.port}/app"
                   f"&live=1&sync_timeout=5{key}")
            self.processes[name] = Process(self, name, uri)

    @staticmethod
    def make(path):
        maker = sqlite3.connect(path, isolation_level=None)
        maker.executescript(f"""
            PRAGMA journal_mode = WAL; BEGIN;
            CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
            CREATE TABLE blob(id INTEGER PRIMARY KEY, bytes BLOB);
            CREATE TABLE counter(writer TEXT PRIMARY KEY, n INTEGER NOT NULL);
            WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {ACCOUNTS - 1})
              INSERT INTO account SELECT n, {TOTAL // ACCOUNTS} FROM c;
            WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {BLOBS - 1})
              INSERT INTO blob SELECT n, randomblob({BLOB_BYTES}) FROM c;
            COMMIT;""")
        maker.close()

    def log(self, name):
        """Bytes of the log in use: frames by the shared index (word 4), of 4 KiB pages."""
        try:
            with open(self.files[name] + "-shm", "rb") as index:
                index.seek(16)
                return int.from_bytes(index.read(4), sys.byteorder) * (4096 + 24)
        except OSError:
            return 0

    def sample(self, begun):
        for name, process in self.processes.items():
            free, longest = self.free.get(name, (0, 0))
            is_free = process.last.get("contact") and not process.last["holding"]
            # One sample in a second.
            free = 0 if self.log(name) < SHORT_LOG else free + bool(is_free)
            self.free[name] = (free, max(free, longest))
        self.samples.append({
            "time": time.monotonic() - begun,
            **{f"log {name}": self.log(name) for name in self.files},
            **{f"memory {name}": process.resident() for name, process in self.processes.items()},
            **{f"descriptors {name}": process.descriptors() for name, process in self.processes.items()},
            **{f"lag {name}": process.lag for name, process in self.processes.items()},
        })

    def disturb(self, name):
        process = self.processes[name]
        if not process.started.is_set():
            return
        how = self.random.choice((signal.SIGTERM if name == "primary" else None, signal.SIGKILL))
        process.end(how)
        time.sleep(self.random.uniform(0, 3))
        process.start()

    def run(self):
        begun = time.monotonic()
        primary_due, replica_due, told = 25, 40, 0
        while (now := time.monotonic() - begun) < self.seconds:
            self.sample(begun)
            if now > primary_due:
                self.disturb("primary")
                primary_due = now + self.random.uniform(20, 50)
            if now > replica_due:
                self.disturb(f"replica{self.random.randrange(REPLICAS)}")
                replica_due = now + self.random.uniform(30, 60)
            for name, process in self.processes.items():
                if process.process.poll() is not None:
                    self.problems.append(f"{name} ended by itself: {process.process.returncode}")
                    process.start()
            if now > told:
                told += 60
                lags = [self.processes[f"replica{n}"].lag for n in range(REPLICAS)]
                print(f"{now:5.0f} s: {counted(self.directory + '/primary.acknowledged')} writes on the primary, "
                      f"lags {lags}, problems {len(self.problems)}", flush=True)
            time.sleep(1)
        self.converge(begun)
        self.judge()

    def converge(self, begun):
        for proxy in self.proxies:
            proxy.heal()
        for process in self.processes.values():
            if not process.started.wait(60):
                self.problems.append(f"{process.name} never came up")
            process.tell("quiet")
        time.sleep(2)
        until = time.monotonic() + CONVERGED
        while True:
            positions = {name: process.ask("position", "position") for name, process in self.processes.items()}
            if len(set(positions.values())) == 1:
                print(f"all at {positions['primary']} {time.monotonic() - until + CONVERGED:.1f} s after the faults ended")
                break
            if time.monotonic() > until:
                self.problems.append(f"not converged: {positions} {[p.last for p in self.processes.values()]}")
                break
            time.sleep(0.5)
        self.sample(begun)
        checks = {}
        for name, process in self.processes.items():
            checks[name] = process.ask("check", "checksum")
            if process.answers["integrity"] != "ok" or not process.answers["verified"]:
                self.problems.append(f"{name}: {process.answers}")
        if len(set(checks.values())) != 1:
            self.problems.append(f"the contents differ: {checks}")
        self.acknowledged(self.processes["primary"].answers["counters"])
        for process in self.processes.values():
            process.end(None)

    def acknowledged(self, counters):
        for name in ["primary"] + [f"replica{n}" for n in WRITERS]:
            said = counted(f"{self.directory}/{name}.acknowledged")
            unknown = counted(f"{self.directory}/{name}.unknown")
            kills = self.processes[name].kills
            there = counters.get(name, 0)
            print(f"{name}: {said} writes acknowledged, {there} there; {unknown} unknown, killed {kills} times")
            if not said <= there <= said + unknown + kills:
                self.problems.append(f"{name}: {said} acknowledged, {there} there")

    def judge(self):
        for name in self.files:
            log = [(s["time"], s[f"log {name}"]) for s in self.samples]
            short = [at for at, size in log if size < SHORT_LOG]
            gaps = [b - a for a, b in zip([0] + short, short + [log[-1][0]])]
            largest = max(size for _, size in log)
            print(f"{name}: log at most {largest / MIB:.1f} MiB, longest time above {SHORT_LOG // MIB} MiB {max(gaps):.0f} s")
            print(f"{name}: free to begin anew for at most {self.free[name][1]} s before it did")
            if largest > LONGEST_LOG or self.free[name][1] > FREE:
                self.problems.append(f"the log of {name} is not bounded")
            memory = [s[f"memory {name}"] for s in self.samples if s[f"memory {name}"]]
            quarter = len(memory) // 4
            before, after = statistics.median(memory[quarter:2 * quarter]), statistics.median(memory[3 * quarter:])
            descriptors = [s[f"descriptors {name}"] for s in self.samples]
            print(f"{name}: memory {before / MIB:.1f} MiB in the second quarter, {after / MIB:.1f} in the last, at most "
                  f"{max(memory) / MIB:.1f}; descriptors at most {max(descriptors)}")
            if after > 1.25 * before + 8 * MIB:
                self.problems.append(f"the memory of {name} grows")
            if max(descriptors) > 80:
                self.problems.append(f"{name} has {max(descriptors)} descriptors")
        faults = {}
        for proxy in self.proxies:
            for kind, count in proxy.counts.items():
                faults[kind] = faults.get(kind, 0) + count
        print(f"connections by kind: {faults}")
        draw(self.samples, self.files, self.plot)
        if self.problems:
            sys.exit("FAILED:\n" + "\n".join(self.problems[:20]))
        print(f"passed; plot: {self.plot}")


def draw(samples, names, path):
    """Four plots over time, one line for each process."""
    width, height, left = 900, 170, 70
    colours = ["#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7"]
    last = max(sample["time"] for sample in samples)
    parts = []
    panels = [("log", "log in use, MiB", MIB), ("memory", "resident memory, MiB", MIB),
              ("descriptors", "descriptors", 1), ("lag", "lag, transactions", 1)]
    for row, (key, title, unit) in enumerate(panels):
        top = 30 + row * (height + 40)
        most = max(max(s[f"{key} {n}"] / unit for s in samples for n in names), 1)
        parts.append(f'<text x="{left}" y="{top - 8}">{title}</text>'
                     f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
                     f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{most:.0f}</text>'
                     f'<text x="{left - 6}" y="{top + height}" text-anchor="end">0</text>')
        for name, colour in zip(names, colours):
            points = " ".join(f"{left + s['time'] / last * width:.1f},{top + height - s[f'{key} {name}'] / unit / most * height:.1f}"
                              for s in samples)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1"/>')
    bottom = 30 + len(panels) * (height + 40)
    for at, (name, colour) in enumerate(zip(names, colours)):
        parts.append(f'<text x="{left + at * 130}" y="{bottom}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{left + width}" y="{bottom}" text-anchor="end">{last:.0f} s</text>')
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{bottom + 20}" '
                   f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')


if sys.argv[1] == "role":
    role(*sys.argv[2:])
else:
    Soak(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]).run()

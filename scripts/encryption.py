"""What encryption costs, by the clock and in CPU time: the same work by each engine in turn, each in a process of its own.

    encryption.py HOSTS LIBRARY FOLDER        run by scripts/encryption.sh
"""
import json
import os
import statistics
import subprocess
import sys
import time

RAW = "2a" * 32
ROWS = 60_000
# The extension with the cipher it chooses here, and with the one for processors without instructions for AES.
ENGINES = ["plain", "replica", "replica-chacha20", "sqlite3mc", "sqlcipher"]
ROUNDS = 7
LOADED = []


def connect(engine, library, path, secret):
    """An open database; `secret` is 'raw' or 'passphrase'."""
    if engine == "sqlcipher":
        import sqlcipher3.dbapi2 as sqlcipher

        connection = sqlcipher.connect(path, isolation_level=None)
        key = f"x'{RAW}'" if secret == "raw" else "a passphrase"
        connection.execute('PRAGMA key = "%s"' % key)
        return connection.execute
    import apsw

    if engine == "plain":
        return apsw.Connection(path).execute
    if engine == "sqlite3mc":
        connection = apsw.Connection(path)
        connection.execute("PRAGMA cipher = 'chacha20'")
        key = f"raw:{RAW}" if secret == "raw" else "a passphrase"
        connection.execute(f"PRAGMA key = '{key}'")
        return connection.execute
    if not LOADED:
        # Once in a process, as programs do.
        loader = apsw.Connection(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(library)
        LOADED.append(library)
    key = f"hex:{RAW}" if secret == "raw" else "a passphrase"
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    cipher = "&cipher=xchacha20-poly1305" if engine == "replica-chacha20" else ""
    uri = f"file:{path}?vfs=replica&encryption_key={key}{cipher}"
    return apsw.Connection(uri, flags=flags).execute


def timed(work):
    begun, used = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - begun) * 1000, (time.process_time() - used) * 1000


def middle(times):
    """The medians of both clocks."""
    return tuple(statistics.median(each) for each in zip(*times))


def measure(engine, library, path):
    """Milliseconds for each kind of work on a new database: by the clock, and of the processor."""
    times = {}
    run = connect(engine, library, path, "raw")
    run("PRAGMA journal_mode = WAL").fetchall()
    run("PRAGMA synchronous = NORMAL")
    run("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB)")

    def load():
        run("BEGIN")
        run(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < %d) "
            "INSERT INTO t SELECT n, 'row number ' || n, randomblob(700) FROM c" % ROWS
        )
        run("COMMIT")
        run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    times["bulk load and checkpoint"] = timed(load)

    def commits():
        for n in range(1, 501):
            run(f"UPDATE t SET a = 'changed' WHERE id = {n * 97}")

    times["500 single-row commits"] = timed(commits)
    run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    run("PRAGMA cache_size = 10")

    def points():
        for n in range(1, 5001):
            run(f"SELECT length(b) FROM t WHERE id = {n * 7919 % ROWS + 1}").fetchall()

    times["5000 point reads, tiny cache"] = timed(points)
    times["scan, tiny cache"] = min(
        timed(lambda: run("SELECT sum(length(b)), max(a) FROM t").fetchall()) for _ in range(2)
    )
    run("PRAGMA cache_size = -200000")
    run("SELECT sum(length(b)), max(a) FROM t").fetchall()
    times["scan, everything in the cache"] = min(
        timed(lambda: run("SELECT sum(length(b)), max(a) FROM t").fetchall()) for _ in range(3)
    )

    def reopen(name, secret, count):
        def first():
            connect(engine, library, name, secret)("SELECT count(*) FROM sqlite_schema").fetchall()

        return middle(timed(first) for _ in range(count))

    times["open, raw key"] = reopen(path, "raw", 51)
    other = path + "-passphrase"
    connect(engine, library, other, "passphrase")("CREATE TABLE t(x)")
    times["open, passphrase"] = reopen(other, "passphrase", 3)
    return times


def main():
    hosts, library, folder = sys.argv[1:4]
    python = {
        "plain": f"{hosts}/apsw/bin/python3",
        "replica": f"{hosts}/apsw/bin/python3",
        "replica-chacha20": f"{hosts}/apsw/bin/python3",
        "sqlite3mc": f"{hosts}/sqlite3mc/bin/python3",
        "sqlcipher": f"{hosts}/sqlcipher/bin/python3",
    }
    results = {engine: [] for engine in ENGINES}
    for round_number in range(ROUNDS):
        for turn in range(len(ENGINES)):
            engine = ENGINES[(round_number + turn) % len(ENGINES)]
            path = os.path.join(folder, f"{engine}-{round_number}.db")
            command = [python[engine], __file__, "--measure", engine, library, path]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[engine].append(json.loads(answer))
            for name in os.listdir(folder):
                os.remove(os.path.join(folder, name))
    for work in results["plain"][0]:
        plain = middle(times[work] for times in results["plain"])
        print(work)
        for engine in ENGINES:
            both = [times[work] for times in results[engine]]
            clock, used = middle(both)
            clocks = sorted(times[0] for times in both)
            print(
                f"  {engine:16} {clock:9.3f} ms [{clocks[0]:.3f}..{clocks[-1]:.3f}] {clock / plain[0]:5.2f} x plain"
                f"   processor {used:9.3f} ms {used / plain[1]:5.2f} x plain"
            )


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(*sys.argv[2:5])))
    else:
        main()

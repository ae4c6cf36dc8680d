"""A host for the tests: Python's own sqlite3 module, driven over standard input.

Each request is one line, a command and its arguments in hex; each answer is one line, `ok HEX` or
`err CODE HEX`. The loops (watch, checkpoint, repeat) say `started` once they run and answer when
the next line, or the end of input, arrives: a test that dies ends its hosts.
"""

import resource
import select
import sqlite3
import sys
import time

connections = {}


class Broken(Exception):
    """What a watcher saw is not one whole transaction."""


def text(value):
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def rows(connection, sql):
    return "\n".join("|".join(text(value) for value in row) for row in connection.execute(sql))


def told_to_stop(seconds=0):
    return bool(select.select([0], [], [], seconds)[0])


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def load(library):
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(library)
    # Stays open: some calls need a connection that has nothing to do with the file they work on.
    connections["memory"] = connection


def open_database(slot, uri):
    connection = sqlite3.connect(uri, uri=uri.startswith("file:"), isolation_level=None, check_same_thread=False)
    connections[slot] = connection


def close(slot):
    connections.pop(slot).close()


def watch(slot, query):
    """Reads `query` twice in each transaction: row[0] never goes back, row[1] is 1 for a whole state."""
    connection = connections[slot]
    reads = checks = 0
    first = last = None
    while True:
        connection.execute("BEGIN")
        state = connection.execute(query).fetchone()
        if state[1] != 1:
            raise Broken(f"read {reads}: not one transaction's state: {state}")
        if last is not None and state[0] < last:
            raise Broken(f"read {reads}: went back from {last} to {state[0]}")
        if reads % 25 == 0:
            answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if answer != "ok":
                raise Broken(f"integrity_check at {state}: {answer}")
            checks += 1
        again = connection.execute(query).fetchone()
        if again != state:
            raise Broken(f"the snapshot moved inside a transaction: {state}, then {again}")
        connection.execute("COMMIT")
        first = state[0] if first is None else first
        last = state[0]
        reads += 1
        if reads == 1:
            say("started")
        if told_to_stop():
            return f"{reads}|{checks}|{first}|{last}"


def checkpoint(slot, pause):
    """Runs every mode of wal_checkpoint in turn; `busy` is an answer, an exception is a failure."""
    connection = connections[slot]
    done = busy = 0
    modes = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
    while True:
        row = connection.execute(f"PRAGMA wal_checkpoint({modes[(done + busy) % 4]})").fetchone()
        if row[0]:
            busy += 1
        else:
            done += 1
        if done + busy == 1:
            say("started")
        if told_to_stop(float(pause) / 1000):
            return f"{done}|{busy}"


def repeat(slot, sql, pause="0"):
    """Runs one statement over and over, with pauses in milliseconds; how often, and its last answer."""
    connection = connections[slot]
    count = 0
    while True:
        answer = rows(connection, sql)
        count += 1
        if count == 1:
            say("started")
        if told_to_stop(float(pause) / 1000):
            return f"{count}|{answer}"


def backup(source, target):
    connections[source].backup(connections[target], pages=100)


def limit(size):
    """No file of this process may grow beyond `size` bytes: a full disk, for whoever writes more."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size) if size != "none" else hard, hard))


commands = {
    "backup": backup,
    "load": load,
    "open": open_database,
    "close": close,
    "sql": lambda slot, sql: rows(connections[slot], sql),
    "watch": watch,
    "checkpoint": checkpoint,
    "repeat": repeat,
    "limit": limit,
    "version": lambda: sqlite3.sqlite_version,
}

while True:
    line = sys.stdin.readline()
    if not line:
        break
    name, *arguments = line.split()
    if name == "stop":
        # A loop that failed has answered already.
        continue
    try:
        answer = commands[name](*(bytes.fromhex(argument).decode() for argument in arguments))
        say("ok " + (answer or "").encode().hex())
    except sqlite3.Error as error:
        # What the module itself raises (a closed connection) carries no SQLite code: 1, SQLITE_ERROR.
        say(f"err {getattr(error, 'sqlite_errorcode', 1)} {str(error).encode().hex()}")
    except KeyError as error:
        say(f"err 1 {f'no connection {error}'.encode().hex()}")
    except Broken as error:
        say(f"err 0 {str(error).encode().hex()}")

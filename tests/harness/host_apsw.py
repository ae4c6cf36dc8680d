"""A host for the tests: APSW, which brings its own SQLite. The same protocol as `host.py`, without its loops."""

import sys

import apsw

connections = {}


def text(value):
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def rows(connection, sql):
    return "\n".join("|".join(text(value) for value in row) for row in connection.execute(sql))


def load(library):
    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(library)
    connections["memory"] = connection


def open_database(slot, name):
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connections[slot] = apsw.Connection(name, flags=flags)


def backup(source, target):
    with connections[target].backup("main", connections[source], "main") as copy:
        while not copy.done:
            copy.step(100)


commands = {
    "load": load,
    "open": open_database,
    "close": lambda slot: connections.pop(slot).close(),
    "sql": lambda slot, sql: rows(connections[slot], sql),
    "backup": backup,
    "version": apsw.sqlite_lib_version,
}

for line in sys.stdin:
    name, *arguments = line.split()
    try:
        answer = commands[name](*(bytes.fromhex(argument).decode() for argument in arguments))
        reply = "ok " + (answer or "").encode().hex()
    except apsw.Error as error:
        reply = f"err {getattr(error, 'extendedresult', 1)} {str(error).encode().hex()}"
    sys.stdout.write(reply + "\n")
    sys.stdout.flush()

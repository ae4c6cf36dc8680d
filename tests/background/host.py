"""A program that follows a database in the background and ends, or forks, in a given way.

    host.py LIBRARY URI WAY [ARGUMENT]
"""

import multiprocessing
import os
import sqlite3
import sys
import threading
import time

library, uri, way = sys.argv[1:4]


def connect(name=uri):
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


def load():
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(library)
    return loader


def newest(connection):
    return connection.execute("SELECT text FROM note WHERE id = 1").fetchone()[0]


def say(text):
    print(text, flush=True)


def in_child():
    """What a child may well do: use SQLite, the extension, and the database its parent follows."""
    memory = sqlite3.connect(":memory:")
    memory.execute("CREATE TABLE t(a)")
    memory.execute("INSERT INTO t VALUES (1)")
    memory.close()
    own = connect()
    assert newest(own)
    own.execute("SELECT replica_sync()").fetchone()
    assert own.execute("PRAGMA quick_check").fetchone() == ("ok",)
    own.close()


def forks(count):
    for _ in range(count):
        child = os.fork()
        if child == 0:
            try:
                in_child()
            except BaseException as error:
                say(f"child: {error!r}")
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 20
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                with open(f"/proc/{child}/syscall") as call, open(f"/proc/{child}/wchan") as where:
                    say(f"a child hangs in {where.read()}, system call {call.read().strip()}")
                os.kill(child, 9)
                os.waitpid(child, 0)
                sys.exit(1)
            time.sleep(0.002)
        if status != 0:
            say(f"a child ended with {status}")
            sys.exit(1)


def in_process(_):
    load()
    in_child()
    return True


def main():
    loader = load()
    connection = connect()
    say(newest(connection))
    if way == "closes":
        connection.close()
    elif way == "ends":
        pass
    elif way == "sys.exit":
        sys.exit(3)
    elif way == "raises":
        raise SystemExit("on purpose")
    elif way == "os._exit":
        os._exit(4)
    elif way == "waits":
        sys.stdin.readline()
    elif way == "threads":
        # Each with a connection of its own, in the midst of reads when the program ends.
        def read():
            own = connect()
            while True:
                newest(own)

        for _ in range(4):
            threading.Thread(target=read, daemon=True).start()
        time.sleep(0.3)
    elif way == "forks":
        forks(int(sys.argv[4]))
    elif way == "multiprocessing":
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert all(pool.map(in_process, range(4)))
    if way in ("forks", "multiprocessing"):
        # The parent goes on following.
        before = newest(connection)
        deadline = time.monotonic() + 20
        while newest(connection) == before:
            if time.monotonic() > deadline:
                say("the parent follows no longer")
                sys.exit(1)
            time.sleep(0.01)
        connection.close()
    del loader
    say("done")


if __name__ == "__main__":
    main()

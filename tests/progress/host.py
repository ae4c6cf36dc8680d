"""Makes a replica, and looks meanwhile how far it is.

    host.py LIBRARY URI terminal|pipe SQL...

The statements run on the replica. Prints one line of JSON: what `replica_status` said while the first one ran (pages/total), what it says
afterwards, and what came out on standard error.
"""

import json
import os
import pty
import sqlite3
import sys
import threading
import time

library, uri, kind, statements = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
os.dup2(writer, 2)
errors = []


def collect():
    try:
        while data := os.read(reader, 1 << 16):
            errors.append(data)
    except OSError:
        pass


threading.Thread(target=collect, daemon=True).start()
watching = sqlite3.connect(":memory:", isolation_level=None)
watching.enable_load_extension(True)
watching.load_extension(library)
STATUS = "SELECT state, transfer, transfer_pages, transfer_total, transfer_bytes FROM replica_status"
failures = []


def work():
    try:
        replica = sqlite3.connect(uri, uri=True, isolation_level=None)
        for statement in statements:
            replica.execute(statement).fetchall()
        after.append(replica.execute(STATUS).fetchone())
        replica.close()
    except Exception as error:  # pylint: disable=broad-except
        failures.append(repr(error))


after = []
thread = threading.Thread(target=work)
thread.start()
seen = []
while thread.is_alive():
    row = watching.execute(STATUS).fetchone()
    if row and (not seen or seen[-1] != row):
        seen.append(row)
    time.sleep(0.01)
thread.join()
time.sleep(0.1)
steps = " ".join(f"{row[2]}/{row[3] or '-'}" for row in seen if row[1] == "bootstrap")
print(json.dumps({"steps": steps, "after": after[0][1] or "nothing", "failures": failures,
                  "errors": b"".join(errors).decode()}))

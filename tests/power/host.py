"""Runs the SQL lines of its standard input, as the shell does: what the power test asks of a second host."""
import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    line = line.rstrip("\n")
    if line.startswith(".print "):
        print(line[len(".print "):], flush=True)
        continue
    try:
        for row in connection.execute(line):
            print("|".join(str(column) for column in row))
    except sqlite3.Error as error:
        print("Error:", error)

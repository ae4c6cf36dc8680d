"""Turns `apt-cache dumpavail` (standard input) into two CSV files in the given directory.

package.csv: name, version, architecture, section, priority, maintainer, installed size, size, description
dependency.csv: name, version, architecture, kind, position, alternative, depends on, relation, required version
"""

import csv
import re
import sys
from pathlib import Path

KINDS = ("Pre-Depends", "Depends", "Recommends", "Suggests", "Enhances", "Conflicts", "Breaks", "Replaces", "Provides")
# `libc6:any (>= 2.34) [amd64]`: the name, and what is in the parentheses.
ITEM = re.compile(r"^\s*([^\s:(\[]+)(?::\S+)?\s*(?:\(\s*([<>=]+)\s*([^)\s]+)\s*\))?")


def stanzas(lines):
    """Each stanza as a dictionary; continuation lines are joined with newlines."""
    fields, name = {}, None
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields, name = {}, None
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields


def main(directory):
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    seen = set()
    with (
        open(directory / "package.csv", "w", encoding="utf-8", newline="") as packages,
        open(directory / "dependency.csv", "w", encoding="utf-8", newline="") as dependencies,
    ):
        package_rows, dependency_rows = csv.writer(packages), csv.writer(dependencies)
        for fields in stanzas(sys.stdin):
            key = tuple(fields.get(field, "") for field in ("Package", "Version", "Architecture"))
            # The same package may be offered by several sources.
            if not key[0] or key in seen:
                continue
            seen.add(key)
            numbers = (fields.get(field, "0") for field in ("Installed-Size", "Size"))
            texts = (fields.get(field, "") for field in ("Section", "Priority", "Maintainer"))
            package_rows.writerow([*key, *texts, *numbers, fields.get("Description", "")])
            for kind in KINDS:
                for position, group in enumerate(fields.get(kind, "").split(",")):
                    for alternative, item in enumerate(group.split("|")):
                        match = ITEM.match(item)
                        if match:
                            name, relation, version = (part or "" for part in match.groups())
                            dependency_rows.writerow([*key, kind, position, alternative, name, relation, version])


main(Path(sys.argv[1]))

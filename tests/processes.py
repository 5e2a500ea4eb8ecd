"""Which processes belong to a command, from Linux' /proc."""

import os
from pathlib import Path


def descendants(ancestor: int) -> list[int]:
    """Process ids below `ancestor`, from /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = children.get(ancestor, [])
    for process in found:
        found.extend(children.get(process, []))
    return found


def named(ancestor: int, name: str) -> list[int]:
    """Processes below `ancestor` of this name."""
    return [process for process in descendants(ancestor) if _read(process, "comm").strip() == name]


def raylet(ancestor: int) -> list[int]:
    """Ray's process that starts the others, if it is there."""
    return named(ancestor, "raylet")


def workers(ancestor: int) -> list[int]:
    """Ray's processes that train or wait to."""
    return [process for process in descendants(ancestor) if _read(process, "cmdline").startswith("ray::I")]


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1, and the first as an address of IPv6, as /proc has them where bytes are in the usual order."""


def listening_addresses(ancestor: int) -> list[str]:
    """Where processes from `ancestor` on wait for connections, as in `LOOPBACK`."""
    sockets = set()
    for process in (ancestor, *descendants(ancestor)):
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except FileNotFoundError:
                continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.append(words[1].partition(":")[0])
    return found


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

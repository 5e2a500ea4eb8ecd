"""Which processes belong to a command, from Linux' /proc."""

import os
from ipaddress import IPv4Address, IPv6Address
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


def listening_addresses(ancestor: int) -> list[IPv4Address]:
    """Where processes from `ancestor` on wait for connections."""
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
                found.append(_address(words[1].partition(":")[0]))
    return found


def _address(digits: str) -> IPv4Address:
    """From the hexadecimal digits of /proc, each four bytes of which are in the order of this machine's processor."""
    words = [digits[place : place + 8] for place in range(0, len(digits), 8)]
    data = b"".join(bytes.fromhex(word)[::-1] for word in words)
    if len(data) == 4:
        return IPv4Address(data)
    return IPv6Address(data).ipv4_mapped or IPv4Address(0)


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

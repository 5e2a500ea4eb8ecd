"""Which processes belong to a command, from Linux' /proc."""

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


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

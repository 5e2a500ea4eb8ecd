"""The cores and the memory that this process may use, also within a container or a batch job."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUP = Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def machine_cpus(a_stage: float = 1) -> int:
    """The processors that this process may use, at least one. A limit of time on them is never below those of a stage:
    it is slower then, and need not be refused."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups():
        with suppress(OSError, ValueError):  # the outermost has no limits; `max` is no number
            quota, period = map(int, (group / "cpu.max").read_text(encoding="utf-8").split())
            count = min(count, max(quota // period, math.ceil(a_stage)))
    return max(1, count)


def free_memory() -> float:
    """Bytes that new processes can have: by Linux what is available, elsewhere all of the machine's."""
    free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError):
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
        free = 1024.0 * int(found[1]) if found else free
    for group in _control_groups():
        with suppress(OSError, ValueError):
            limit = int((group / "memory.max").read_text(encoding="utf-8"))
            held = re.search(r"^anon (\d+)$", (group / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE)
            free = min(free, limit - int(held[1] if held else 0))
    return free


def _control_groups() -> Iterator[Path]:
    """The folders of Linux's control groups (version 2) that hold this process, in which containers and batch systems
    limit what it gets."""
    with suppress(OSError, ValueError):  # a name that is no text
        own = re.search(r"^0::/(.*)$", OWN_GROUP.read_text(encoding="utf-8"), re.MULTILINE)
        folder = CONTROL_GROUPS / own[1] if own else CONTROL_GROUPS
        yield from (one for one in (folder, *folder.parents) if one.is_relative_to(CONTROL_GROUPS))

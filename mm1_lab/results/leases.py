"""Leases: which process works on a stage, so that any number of them share a store, and nothing is done twice.

A lease is one of the library `filelock`: a file that only one process can create (O_EXCL, which network file
systems keep too), and whose date its holder renews. It is abandoned if its process is dead, seen on the holder's
machine; or, elsewhere, if its date has not changed while this process watched it (`files.lease`), as clocks differ.
"""

import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import SoftFileLease

from mm1_lab import files

POLL_SECONDS = 0.5
RECENT_SECONDS = 30.0
"""How old a lease is that a process still renews, which it does every few seconds; with room for busy machines."""


class LeaseLost(Exception):
    """Another process has taken over what this one works on."""


class Lease(AbstractContextManager["Lease"]):
    """Stages that this process works on, until `release` or the end of a `with` block."""

    def __init__(self) -> None:
        self.files: list[SoftFileLease] = []

    def check(self) -> None:
        """Raises LeaseLost if another process has taken over, because this one was silent for too long."""
        for file in self.files:
            if file.compromise:
                path = file.lock_file
                raise LeaseLost(f"{path}: another process has taken over, as this one was silent for too long")

    def release(self) -> None:
        for file in self.files:
            file.release()

    def __exit__(self, *error: object) -> None:
        self.release()


class Leases:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._watched: dict[str, tuple[SoftFileLease, float]] = {}
        """Others' leases: the object that remembers how long it has seen one unchanged, and when it last looked."""
        self._met: dict[str, int] = {}
        """The date of another's lease when its watch began."""

    def take(self, keys: Iterable[str]) -> Lease | None:
        """Leases stages, all or none; None if another process works on one of them."""
        lease = Lease()
        held = False
        try:
            for key in keys:
                # after one that is held others' leases are watched, too, as a dead process's lapse together; what is
                # free is left alone: of two processes each could hold what the other lacks
                if not held or (self.folder / key).exists():
                    held = not self._take(key, lease) or held
        except BaseException:
            lease.release()
            raise
        if held:
            lease.release()
        return None if held else lease

    def _take(self, key: str, lease: Lease) -> bool:
        file, looked = self._watched.pop(key, (None, 0.0))
        # a long time between two looks proves nothing: this machine, or the file server, may have slept
        if file is None or time.monotonic() - looked > 3 * files.RENEW_SECONDS:
            file = files.lease(self.folder / key, timeout=0)
            self._met[key] = self._date(key)
        if files.take(file):
            lease.files.append(file)
            return True
        self._watched[key] = file, time.monotonic()
        return False

    def is_renewed(self, key: str) -> bool:
        """Whether the process that holds the lease was seen alive since `take` began to watch it."""
        return self._date(key) not in (0, self._met.get(key, 0))

    def recent(self) -> set[str]:
        """The stages that some process, not known to be dead, has worked on within `RECENT_SECONDS`. Takes and removes
        nothing."""
        found: set[str] = set()
        if not os.access(self.folder, os.R_OK):  # a colleague's store
            return found
        now = files.now_in(self.folder)
        for path in self.folder.glob("*"):
            with suppress(OSError), path.open("rb") as file:  # opened, as network file systems keep dates of others
                if now - os.fstat(file.fileno()).st_mtime < RECENT_SECONDS and not files.holder_is_dead(path):
                    found.add(path.name)
        return found

    def _date(self, key: str) -> int:
        try:
            return os.stat(self.folder / key).st_mtime_ns
        except FileNotFoundError:
            return 0

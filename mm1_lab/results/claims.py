"""Claims: which process works on a stage, so that any number of them share a store, and nothing is done twice.

A claim is a file `FINGERPRINT.NUMBER` that only one process can create (O_EXCL, which network file systems keep too).
Its holder renews the file's date. An abandoned claim is not deleted, because two processes could then delete each
other's, but superseded by the next number, which again only one can create. It is abandoned if

- its lock is free, seen on the holder's machine: the system has released it, so the process is dead. From another
  machine this says nothing, since some network file systems keep locks to the machine;
- or, elsewhere, its date has not changed while this process watched for STALE_SECONDS: clocks of two machines differ.
"""

from __future__ import annotations

import fcntl
import os
import platform
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from mm1_lab.files import can_lock

RENEW_SECONDS = 15.0
STALE_SECONDS = 120.0
"""More than it takes to renew a claim and for network file systems to show it, which may keep dates for a minute."""
POLL_SECONDS = 0.5


class ClaimLost(Exception):
    """Another process has taken over what this one works on."""


class Claim:
    """Stages that this process works on, until `release` or the end of a `with` block."""

    def __init__(self) -> None:
        self._files: dict[Path, IO[str]] = {}
        self._lost: Path | None = None
        self._released = threading.Event()

    def add(self, path: Path, file: IO[str]) -> None:
        if not self._files:
            threading.Thread(target=self._renew, name="claim", daemon=True).start()
        self._files[path] = file

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            for path in list(self._files):
                try:
                    os.utime(path)
                    if _latest(path.parent, path.stem) != path:
                        self._lost = path
                except FileNotFoundError:
                    self._lost = path
                except OSError:  # the file server may come back
                    continue

    def check(self) -> None:
        """Raises ClaimLost if another process has taken over, because this one was silent for too long."""
        if self._lost:
            raise ClaimLost(f"{self._lost}: another process has taken over, as this one was silent for too long")

    def release(self) -> None:
        self._released.set()
        for path, file in self._files.items():
            path.unlink(missing_ok=True)
            file.close()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass
class _Watched:
    """What this process has seen of another's claim."""

    date: int
    looked: float
    """The time of the last look."""
    unchanged: float = 0.0
    """Seconds of watching without a change."""
    renewed: bool = False


class Claims:
    """The claims in a folder of the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._watched: dict[Path, _Watched] = {}

    def take(self, keys: Iterable[str]) -> Claim | None:
        """Claims stages, all or none; None if another process works on one of them."""
        claim = Claim()
        taken = False
        try:
            taken = all(self._take(key, claim) for key in keys)
        finally:
            if not taken:
                claim.release()
        return claim if taken else None

    def _take(self, key: str, claim: Claim) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        before = _latest(self.folder, key)
        number = 0
        if before is not None:
            if not self._is_abandoned(before):
                return False
            number = int(before.suffix[1:]) + 1
        path = self.folder / f"{key}.{number}"
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:  # another was faster
            return False
        claim.add(path, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            machine = self._machine
        except OSError:  # a file system without locks
            machine = "-"
        print(machine, platform.node(), os.getpid(), file=file, flush=True)  # after the lock, which it vouches for
        if _latest(self.folder, key) != path:  # another has superseded the claim before, of which this one saw nothing
            return False
        for older in range(number):
            (self.folder / f"{key}.{older}").unlink(missing_ok=True)
        return True

    def is_renewed(self, key: str) -> bool:
        """Whether the process that holds the claim was seen alive since `take` first met its claim."""
        path = _latest(self.folder, key)
        return path is not None and path in self._watched and self._watched[path].renewed

    def _is_abandoned(self, path: Path) -> bool:
        try:
            with path.open(encoding="utf-8") as file:
                machine = file.readline().partition(" ")[0]
                date = os.fstat(file.fileno()).st_mtime_ns
                lock_tells = machine == self._machine and self._locks_work
                held = lock_tells and _is_locked(file)
        except FileNotFoundError:  # released meanwhile: the next look finds it free
            return False
        now = time.monotonic()
        watched = self._watched.setdefault(path, _Watched(date, now))
        if held or date != watched.date:
            self._watched[path] = _Watched(date, now, renewed=True)
            return False
        # a long time between two looks proves nothing: this machine, or the file server, may have slept
        watched.unchanged += min(now - watched.looked, RENEW_SECONDS)
        watched.looked = now
        return lock_tells or watched.unchanged > STALE_SECONDS

    @cached_property
    def _machine(self) -> str:
        """The kernel that this process runs on and the mounted file system: what shares locks for certain."""
        try:
            kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            kernel = platform.node()
        return f"{kernel}/{self.folder.stat().st_dev}"

    @cached_property
    def _locks_work(self) -> bool:
        return can_lock(self.folder)


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _latest(folder: Path, key: str) -> Path | None:
    """The claim with the highest number."""
    numbers = [int(path.suffix[1:]) for path in folder.glob(f"{key}.*")]
    return folder / f"{key}.{max(numbers)}" if numbers else None

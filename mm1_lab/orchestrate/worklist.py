"""Which unit is next: those whose inputs are done, the one with the longest path behind it first.

Where processes are reused, an idle one may also be given a unit that is not ready, to stand by for its inputs: Tune
would end an idle process, and starting a new one takes longer than many a short stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mm1_lab.orchestrate.plan import Unit
from mm1_lab.train.progress import Progress


class Observer(Protocol):
    """Is told what happens to units, in the driver's process."""

    def started(self, unit: Unit) -> None: ...

    def progress(self, unit: Unit, kind: str, progress: Progress) -> None:
        """`kind`: the stage of the unit that is running."""

    def finished(self, unit: Unit) -> None: ...

    def failed(self, unit: Unit, reason: str, again: bool) -> None:
        """`again`: it will be tried again."""

    def tick(self) -> None:
        """Called a few times a second."""


class WorkList:
    """Units that wait, run, are done, failed, or are blocked by one that failed."""

    def __init__(
        self, units: Mapping[str, Unit], priority: Mapping[str, float], retries: int, may_stand_by: bool
    ) -> None:
        self.units = dict(units)
        self.retries = retries
        self.may_stand_by = may_stand_by
        self.waiting = sorted(units, key=lambda key: -priority[key])
        self.running: set[str] = set()
        self.standing_by: set[str] = set()
        """Those of the running that wait for their inputs, or did when they were taken."""
        self.done: set[str] = set()
        self.attempts = dict.fromkeys(units, 0)
        self.failed: dict[str, str] = {}
        """Reasons, by key."""
        self.blocked: dict[str, str] = {}
        """The key of the failed unit, by key."""

    @property
    def exhausted(self) -> bool:
        """Nothing waits; what runs may still come back after a failure."""
        return not self.waiting and not self.running

    def take(self) -> Unit | None:
        """The next unit, or None while none is ready. Something runs then, or everything is finished."""
        ready = [key for key in self.waiting if self.done.issuperset(self.units[key].needs)]
        if ready:
            return self._take(ready[0])
        coming = self.done | (self.running - self.standing_by)
        soon = [key for key in self.waiting if coming.issuperset(self.units[key].needs)]
        if soon and self.may_stand_by:
            self.standing_by.add(soon[0])
            return self._take(soon[0])
        return None

    def _take(self, key: str) -> Unit:
        self.waiting.remove(key)
        self.running.add(key)
        self.attempts[key] += 1
        return self.units[key]

    def finish(self, key: str) -> None:
        self.running.remove(key)
        self.standing_by.discard(key)
        self.done.add(key)

    def fail(self, key: str, reason: str) -> bool:
        """Returns whether the unit will be tried again; if not, everything that needs it is blocked."""
        self.running.remove(key)
        self.standing_by.discard(key)
        cause = next((need for need in self.units[key].needs if need in self.failed), None)
        if cause:
            self.blocked[key] = cause
            self._block(key, cause)
            return False
        if self.attempts[key] <= self.retries:
            self.waiting.insert(0, key)
            return True
        self.failed[key] = reason
        self._block(key, cause=key)
        return False

    def _block(self, key: str, cause: str) -> None:
        """Everything that waits for `key`, and what waits for that."""
        for other in [waiting for waiting in self.waiting if key in self.units[waiting].needs]:
            if other not in self.blocked:
                self.waiting.remove(other)
                self.blocked[other] = cause
                self._block(other, cause)

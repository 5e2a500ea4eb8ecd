"""Which task is next, and how tasks ended; tells the ledger and observers."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mm1_lab.config import Stage
from mm1_lab.files import FULL
from mm1_lab.orchestrate.planning.plan import Task, path_lengths
from mm1_lab.results import Ledger
from mm1_lab.train.progress import Progress

LONG_REASON = 200
"""Characters: one that lists broken pictures has thousands."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended. Only failed or lost tasks may be retried, as the others would end in the same way."""

    kind: Literal["done", "diverged", "failed", "lost", "out of memory", "disk full"] = "done"
    """`lost`: its process died, perhaps with its node, which does not count as an attempt; nor does a full disk, which
    ends the command."""
    reason: str = ""

    @property
    def in_short(self) -> str:
        """The reason, cut if it is long: all of it is printed once, when a task fails finally."""
        return self.reason if len(self.reason) <= LONG_REASON else f"{self.reason[:LONG_REASON]} …"


class DiskFull(OSError):
    """Nothing can be written; what has begun resumes in a later command."""


def full_disk_line(text: str, place: str = "", raised: str = "") -> str:
    """The line of an error's text that says that a disk or a quota is full, with its `place`; empty if no line does. By
    the traceback of what was `raised` it may be shared memory that is full."""
    causes = [os.strerror(number) for number in FULL]
    line = next((line.strip() for line in text.splitlines() if any(cause in line for cause in causes)), "")
    if line and ("shared memory" in line or "multiprocessing/synchronize.py" in raised):
        place = "/dev/shm; enlarge it, as by docker run --shm-size=8g, or --set resources.workers=0"
    return f"{line} (in {place})" if line and place else line


class Observer:
    """Is notified, in the command's process, of what happens to tasks. Subclasses override the methods they need."""

    def started(self, task: Task) -> None:
        """Called when a process starts the task."""

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        """Called with the progress of the task's stage of this kind."""

    def finished(self, task: Task) -> None:
        """Called when the task's results are in the ledger; without `started` if another command put them there."""

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        """Called when the task failed; `again`: it will be retried."""


MOST_LOSSES = 5
"""Limit per task; if its processes die more often, the task may be the cause."""


class WorkList:
    """Tasks that are waiting, running, done, failed, or blocked by one that failed.

    An executor takes those that are ready, and calls `started`, `progress` and `settle` on the way.
    """

    def __init__(
        self,
        tasks: dict[str, Task],
        seconds: Callable[[Stage], float],
        retries: int,
        ledger: Ledger,
        observers: Iterable[Observer] = (),
        sweep: str = "",
    ) -> None:
        """`seconds`: how long a stage is expected to take; `sweep`: whose tasks they are, for records of failures."""
        self.tasks = tasks
        self.seconds = seconds
        self.retries = retries
        self.ledger = ledger
        self.sweep = sweep
        self.observers = list(observers)
        lengths = path_lengths(tasks, seconds)
        # last what failed before: where that ends the process, this command comes to the others all the same
        failed_before = ledger.failures()
        self.waiting = sorted(tasks, key=lambda key: (key in failed_before, -lengths[key]))
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.attempts = dict.fromkeys(tasks, 0)
        """Attempts by task, without those that were lost."""
        self.losses = dict.fromkeys(tasks, 0)
        self.failed: dict[str, Outcome] = {}
        self.blocked: dict[str, str] = {}
        """The key of the failed task, by the key of the task that it blocks."""
        self.full = ""
        """What a task told that found the disk full: no other is begun."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing is waiting or running (a running task may have to be retried), or will be begun."""
        return not self.running and (not self.waiting or bool(self.full))

    def ready(self) -> Iterator[Task]:
        """The waiting tasks whose inputs are done, the one with the longest critical path first."""
        for key in () if self.full else self.waiting:
            if self.done.issuperset(self.tasks[key].needs):
                yield self.tasks[key]

    def take(self, task: Task) -> None:
        """Moves a task from waiting to running."""
        self.waiting.remove(task.key)
        self.running.add(task.key)
        self.attempts[task.key] += 1

    def started(self, task: Task) -> None:
        """A process has started a task that was taken."""
        self.ledger.clear_failure(task.key)
        for observer in self.observers:
            observer.started(task)

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        for observer in self.observers:
            observer.progress(task, kind, progress)

    def settle(self, task: Task, outcome: Outcome, elsewhere: bool = False) -> None:
        """Records how a task that was taken ended: whether it waits to be retried, or is done, or has failed.

        A final failure is recorded in the ledger (results have been written by the task itself) and blocks all tasks
        that depend on it. `elsewhere`: another command has run it, and has recorded its failure.
        """
        key = task.key
        again = False
        self.running.remove(key)
        if outcome.kind == "disk full":
            self.full = outcome.reason
            return
        if outcome.kind == "done":
            self.done.add(key)
        elif outcome.kind == "lost" and self.losses[key] < MOST_LOSSES:
            self.losses[key] += 1
            self.attempts[key] -= 1
            again = True
        elif outcome.kind == "failed" and self.attempts[key] <= self.retries and not elsewhere:
            again = True
        else:
            self.failed[key] = outcome
            self._block(key, cause=key)
            if not elsewhere:
                cause = self._diverged_model(task) if outcome.kind == "diverged" else ""
                what = f"{task.label} of {self.sweep}" if self.sweep else task.label
                blocks = [other for other, blocker in self.blocked.items() if blocker == key]
                how = outcome.kind, outcome.reason
                with suppress(OSError):  # the reason already says if the disk is full
                    self.ledger.record_failure(key, what, self.attempts[key], *how, cause, blocks)
        if again:
            self.waiting.insert(0, key)
        for observer in self.observers:
            if outcome.kind == "done":
                observer.finished(task)
            else:
                observer.failed(task, outcome, again)

    def _diverged_model(self, task: Task) -> str:
        """The fingerprint of the model that a diverged task was to train and evaluate; empty if it is trained, or was
        no part of the task. With other benchmarks the same training would diverge again."""
        for stage in task.stages[:-1]:
            if not self.ledger.has_weights(stage.fingerprint):
                return stage.fingerprint
        return ""

    def _block(self, key: str, cause: str) -> None:
        """Blocks all tasks that depend on `key`, directly or indirectly."""
        for other in list(self.waiting):
            if other in self.waiting and key in self.tasks[other].needs:
                self.waiting.remove(other)
                self.blocked[other] = cause
                self._block(other, cause)

"""Tracks which task is next and how tasks ended, and notifies observers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results import Ledger
from mm1_lab.train.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """How a task ended. Only failed or lost tasks may be retried, as the others would end in the same way."""

    kind: Literal["done", "diverged", "failed", "lost", "out of memory"] = "done"
    """`lost`: its node was lost, which does not count as an attempt."""
    reason: str = ""


class Observer:
    """Is notified, in the driver's process, of what happens to tasks. Subclasses override the methods they need."""

    def started(self, task: Task) -> None:
        """Called when a process starts the task."""

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        """Called with the progress of the task's stage of this kind."""

    def finished(self, task: Task) -> None:
        """Called when the task's results are in the ledger."""

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        """Called when the task failed; `again`: it will be retried."""

    def tick(self) -> None:
        """Called a few times per second while anything runs."""


MOST_LOSSES = 20
"""Limit per task; if its nodes are lost more often, the task may be the cause."""


class WorkList:
    """Tasks that are waiting, running, done, failed, or blocked by one that failed."""

    def __init__(self, tasks: Mapping[str, Task], priority: Mapping[str, float], retries: int) -> None:
        self.tasks = dict(tasks)
        self.retries = retries
        self.waiting = sorted(tasks, key=lambda key: -priority[key])
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.attempts = dict.fromkeys(tasks, 0)
        """Attempts by task, without those that were lost."""
        self.losses = dict.fromkeys(tasks, 0)
        self.failed: dict[str, Outcome] = {}
        self.blocked: dict[str, str] = {}
        """The key of the failed task, by the key of the task that it blocks."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing is waiting or running (a running task may have to be retried)."""
        return not self.waiting and not self.running

    def take(self, fits: Callable[[str], bool] = lambda key: True) -> Task | None:
        """Takes the task with the longest critical path whose inputs are done and whose key `fits`, if any."""
        for key in self.waiting:
            if self.done.issuperset(self.tasks[key].needs) and fits(key):
                self.waiting.remove(key)
                self.running.add(key)
                self.attempts[key] += 1
                return self.tasks[key]
        return None

    def settle(self, key: str, outcome: Outcome) -> bool:
        """Records how a task ended; returns whether it will be retried. A final failure blocks all dependent tasks."""
        self.running.remove(key)
        if outcome.kind == "done":
            self.done.add(key)
        elif outcome.kind == "lost" and self.losses[key] < MOST_LOSSES:
            self.losses[key] += 1
            self.attempts[key] -= 1
            self.waiting.insert(0, key)
            return True
        elif outcome.kind == "failed" and self.attempts[key] <= self.retries:
            self.waiting.insert(0, key)
            return True
        else:
            self.failed[key] = outcome
            self._block(key, cause=key)
        return False

    def _block(self, key: str, cause: str) -> None:
        """Blocks all tasks that depend on `key`, directly or indirectly."""
        for other in [waiting for waiting in self.waiting if key in self.tasks[waiting].needs]:
            if other in self.waiting:
                self.waiting.remove(other)
                self.blocked[other] = cause
                self._block(other, cause)


class Execution:
    """A running plan: executors take tasks from its work list and settle them; it notifies the ledger and observers."""

    def __init__(self, work_list: WorkList, ledger: Ledger, observers: Iterable[Observer]) -> None:
        self.work_list = work_list
        self.ledger = ledger
        self.observers = list(observers)

    def take(self, fits: Callable[[str], bool] = lambda key: True) -> Task | None:
        task = self.work_list.take(fits)
        if task:
            self.ledger.clear_failure(task.key)
        return task

    def start(self, task: Task) -> None:
        for observer in self.observers:
            observer.started(task)

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        for observer in self.observers:
            observer.progress(task, kind, progress)

    def settle(self, task: Task, outcome: Outcome) -> None:
        """Settles a task. Records final failures in the ledger; results have been written by the task itself."""
        again = self.work_list.settle(task.key, outcome)
        if outcome.kind != "done" and not again:
            attempts = self.work_list.attempts[task.key]
            with suppress(OSError):  # the reason already says if the disk is full
                self.ledger.record_failure(task.key, task.label, attempts, outcome.kind, outcome.reason)
        for observer in self.observers:
            if outcome.kind == "done":
                observer.finished(task)
            else:
                observer.failed(task, outcome, again)

    def tick(self) -> None:
        for observer in self.observers:
            observer.tick()

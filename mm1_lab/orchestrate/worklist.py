"""Which task is next, what became of those that ran, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mm1_lab.orchestrate.plan import Task
from mm1_lab.results import Ledger
from mm1_lab.train.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """How a task ended. Only one that failed or was lost may be tried again: others would end in the same way."""

    kind: Literal["done", "diverged", "failed", "lost", "out of memory"] = "done"
    """`lost`: its node went away, which costs no retry."""
    reason: str = ""


class Observer:
    """Is told, in the driver's process, what happens to tasks. Overrides what it wants to hear."""

    def started(self, task: Task) -> None:
        """A process begins with the task."""

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        """The task's stage of this kind is so far."""

    def finished(self, task: Task) -> None:
        """Its results are in the ledger."""

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        """`again`: it will be tried again."""

    def tick(self) -> None:
        """Called a few times a second while anything runs."""


MOST_LOSSES = 20
"""Of a task; where nodes go away more often, it may be the task that makes them."""


class WorkList:
    """Tasks that wait, run, are done, failed, or are blocked by one that failed."""

    def __init__(self, tasks: Mapping[str, Task], priority: Mapping[str, float], retries: int) -> None:
        self.tasks = dict(tasks)
        self.retries = retries
        self.waiting = sorted(tasks, key=lambda key: -priority[key])
        self.running: set[str] = set()
        self.done: set[str] = set()
        self.attempts = dict.fromkeys(tasks, 0)
        """That count as such."""
        self.losses = dict.fromkeys(tasks, 0)
        self.failed: dict[str, Outcome] = {}
        self.blocked: dict[str, str] = {}
        """The key of the failed task, by key."""

    @property
    def exhausted(self) -> bool:
        """Nothing waits; what runs may still come back after a failure."""
        return not self.waiting and not self.running

    def take(self, fits: Callable[[str], bool] = lambda key: True) -> Task | None:
        """The task with the longest path behind it of those whose inputs are done and whose key `fits`, if any."""
        for key in self.waiting:
            if self.done.issuperset(self.tasks[key].needs) and fits(key):
                self.waiting.remove(key)
                self.running.add(key)
                self.attempts[key] += 1
                return self.tasks[key]
        return None

    def settle(self, key: str, outcome: Outcome) -> bool:
        """Returns whether the task will be tried again; if it failed for good, everything that needs it is blocked."""
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
        """Everything that waits for `key`, and what waits for that."""
        for other in [waiting for waiting in self.waiting if key in self.tasks[waiting].needs]:
            if other in self.waiting:
                self.waiting.remove(other)
                self.blocked[other] = cause
                self._block(other, cause)


class Execution:
    """A plan at work: what an executor takes from the work list and brings back is told to ledger and observers."""

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
        """Failures are recorded when they are final; results were entered by whoever did the task."""
        again = self.work_list.settle(task.key, outcome)
        if outcome.kind != "done" and not again:
            attempts = self.work_list.attempts[task.key]
            self.ledger.record_failure(task.key, task.label, attempts, outcome.kind, outcome.reason)
        for observer in self.observers:
            if outcome.kind == "done":
                observer.finished(task)
            else:
                observer.failed(task, outcome, again)

    def tick(self) -> None:
        for observer in self.observers:
            observer.tick()

"""What a user sees while a sweep runs: a line when a task starts or ends, and now and then how far it is."""

import time
from collections.abc import Callable
from typing import TextIO

from mm1_lab.config import RequestError
from mm1_lab.formatting import counted, duration
from mm1_lab.orchestrate.execution.worklist import Observer, Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.results.summary import headline
from mm1_lab.train.progress import Progress

TELLING_SECONDS = 30.0
LEAST_SECONDS, LEAST_SHARE, ENOUGH_SECONDS = 10.0, 0.03, 300.0
"""The time that is left is not extrapolated before so many seconds, nor from less than a share of the work unless this
took some minutes: first steps are slow."""


class Display(Observer):
    """Prints the lines."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, work_list: WorkList, out: TextIO, before: int = 0, trials: int = 0) -> None:
        """`before` of the `trials` that were asked for were done before; 0: the work list has all."""
        self.work_list = work_list
        self.out = out
        self.before = before
        self.trials = trials
        self.begun = self.clock()
        """Since when the speed is measured: the first step, so that it does not include the start."""
        self.since: dict[str, float] = {}
        """When each running task has started."""
        self.told: dict[str, float] = {}
        """When a line last told of it."""
        self.costs = {key: sum(map(work_list.seconds, task.stages)) for key, task in work_list.tasks.items()}
        """Expected seconds of each task."""
        self.worked: dict[str, float] = {}
        """The part of these seconds whose work has been done."""
        self.resumed: dict[str, float | None] = {}
        """For tasks that resume, and for the first task: the part that was done before `begun`, and so tells nothing of
        the speed. None until known."""

    def started(self, task: Task) -> None:
        self.since[task.key] = self.told[task.key] = self.clock()
        if any(self.work_list.ledger.partial_folder(stage.fingerprint).exists() for stage in task.stages):
            self.resumed[task.key] = None
        self.line(f"starts    {task.label}")

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        if progress.note:
            self.line(f"note      {task.label}: {progress.note}")
        worked = 0.0
        for stage in task.stages:
            if kind == stage.name:
                worked += self.work_list.seconds(stage) * progress.step / max(1, progress.steps)
                break
            worked += self.work_list.seconds(stage)
        is_first = not any(self.worked.values())
        self.worked[task.key] = worked
        if progress.step and (is_first or self.resumed.get(task.key, 0.0) is None):
            self.resumed[task.key] = worked
            self.begun = self.clock() if is_first else self.begun
        if not progress.step or self.clock() - self.told[task.key] < TELLING_SECONDS:
            return
        self.told[task.key] = self.clock()
        text = f"runs      {task.label}: {kind} {progress.step}/{progress.steps}"
        if progress.loss is not None:
            text += f", loss {progress.loss:.3f}"
        if progress.tokens_per_second:
            text += f", {progress.tokens_per_second:,.0f} tokens/s"
        self.line(f"{text} ({self.so_far()})")

    def finished(self, task: Task) -> None:
        self.worked[task.key] = self.costs[task.key]
        since = self.since.pop(task.key, None)
        took = "by another command" if since is None else f"in {duration(self.clock() - since)}"
        text = f"done      {task.label} {took} ({self.so_far()})"
        if task.kind == "trial" and (scores := self.headline(task)):
            text += f": {scores}"
        self.line(text)

    def headline(self, task: Task) -> str:
        """A trial's scores."""
        try:
            return headline(self.work_list.ledger.trial_folder(task.key))
        except RequestError as error:  # whatever became of this trial's files, the others go on
            return str(error)

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        self.worked[task.key] = 0.0
        self.since.pop(task.key, None)
        kind = outcome.kind if outcome.kind != "out of memory" else "failed"
        told = f"{outcome.in_short} (will retry)" if again else outcome.reason
        self.line(f"{kind:9} {task.label}: {told}")

    def line(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def so_far(self) -> str:
        """`3 of 12 trials, 1 failed, about 12 min left`; counts stages if there are no trials."""
        tasks = self.work_list.tasks.values()
        counts = {task.key: len(task.trials) for task in tasks if task.kind == "trial"}
        what = "trial" if counts else "stage"
        before, total = (self.before, self.trials) if counts else (0, 0)
        counts = counts or dict.fromkeys(self.work_list.tasks, 1)
        done = before + sum(counts.get(key, 0) for key in self.work_list.done)
        text = f"{done} of {counted(total or sum(counts.values()), what)}"
        if self.work_list.failed:
            text += f", {len(self.work_list.failed)} failed"
        left = self.seconds_left()
        return f"{text}, about {duration(left)} left" if left else text

    def seconds_left(self) -> float:
        """At the speed so far, without failed tasks and those that need them; 0 if it is not known yet."""
        total = done = before = 0.0
        for key, cost in self.costs.items():
            if key not in self.work_list.failed and key not in self.work_list.blocked:
                total += cost
                done += self.worked.get(key, 0.0)
                before += self.resumed.get(key) or 0.0
        seconds, worked = self.clock() - self.begun, done - before
        if seconds < LEAST_SECONDS or worked <= (LEAST_SHARE * total if seconds < ENOUGH_SECONDS else 0.0):
            return 0.0
        return seconds * (total - done) / worked

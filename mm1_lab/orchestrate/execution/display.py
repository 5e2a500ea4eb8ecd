"""What a user sees while a sweep runs: a line when a task starts or ends; in a terminal progress bars below them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from mm1_lab.formatting import counted, duration
from mm1_lab.orchestrate.execution.worklist import Observer, Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.train.progress import Progress

REFRESH_SECONDS = 0.5
TELLING_SECONDS = 10.0  # before, the time that is left is not extrapolated


class Display(Observer):
    """Prints lines for logs and pipes; in a terminal it also draws bars, which it removes at the end."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, work_list: WorkList, headline: Callable[[Task], str], out: TextIO) -> None:
        """`headline` tells a trial's scores."""
        self.work_list = work_list
        self.headline = headline
        self.out = out
        self.begun = self.clock()
        self.since: dict[str, float] = {}
        """When each running task has started."""
        self.told: dict[str, str] = {}
        """Stage, step and loss of each running task."""
        self.costs = {key: sum(map(work_list.seconds, task.stages)) for key, task in work_list.tasks.items()}
        """Expected seconds of each task."""
        self.worked: dict[str, float] = {}
        """Those of them that correspond to what has been done."""
        self.drawn = 0.0
        self.bars = None
        if out.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(20),
                progress.TextColumn("{task.fields[told]}"),
            )
            console = Console(file=out, highlight=False)
            self.bars = progress.Progress(*columns, console=console, auto_refresh=False, transient=True)
            self.whole = self.bars.add_task("all", total=1.0, told="")
            self.bar_of: dict[str, progress.TaskID] = {}
            self.bars.start()
            self.tick()

    def started(self, task: Task) -> None:
        self.since[task.key] = self.clock()
        self.told[task.key] = "starts"
        if self.bars:
            self.bar_of[task.key] = self.bars.add_task(task.label, total=self.costs[task.key], told="")
        else:
            self.line(f"starts    {task.label}")

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        if progress.note:
            self.line(f"note      {task.label}: {progress.note}")
        worked = 0.0
        for stage in task.stages:
            if kind == stage.KIND:
                worked += self.work_list.seconds(stage) * progress.step / max(1, progress.steps)
                break
            worked += self.work_list.seconds(stage)
        self.worked[task.key] = worked
        told = kind
        if progress.steps:
            told += f" {progress.step}/{progress.steps}"
        if "loss" in progress.losses:
            told += f", loss {progress.losses['loss']:.3f}"
        if progress.tokens_per_second:
            told += f", {progress.tokens_per_second:,.0f} tokens/s"
        self.told[task.key] = told

    def finished(self, task: Task) -> None:
        self.worked[task.key] = self.costs[task.key]
        since = self._end(task)
        took = "by another command" if since is None else f"in {duration(self.clock() - since)}"
        text = f"done      {task.label} {took} ({self.counted()}"
        if left := self.left():
            text += f", {left}"
        text += ")"
        if task.kind == "trial" and (scores := self.headline(task)):
            text += f": {scores}"
        self.line(text)

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        self.worked[task.key] = 0.0
        self._end(task)
        kind = outcome.kind if outcome.kind != "out of memory" else "failed"
        self.line(f"{kind:9} {task.label}: {outcome.reason}" + (" (will retry)" if again else ""))

    def _end(self, task: Task) -> float | None:
        """Returns when the task has started, if it was started here."""
        if self.bars and task.key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(task.key))
        return self.since.pop(task.key, None)

    def tick(self) -> None:
        now = time.monotonic()
        if not self.bars or now - self.drawn < REFRESH_SECONDS:
            return
        self.drawn = now
        for key, bar in self.bar_of.items():
            self.bars.update(bar, completed=self.worked.get(key, 0.0), told=self.told[key])
        told = [self.counted()]
        if self.work_list.failed:
            told.append(f"{len(self.work_list.failed)} failed")
        if left := self.left():
            told.append(left)
        self.bars.update(self.whole, completed=self.fraction(), told=", ".join(told))
        self.bars.refresh()

    def close(self) -> None:
        """Stops drawing."""
        if self.bars:
            self.bars.stop()

    def line(self, text: str) -> None:
        if self.bars:
            self.bars.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=self.out, flush=True)

    def fraction(self) -> float:
        """The share of the work that is done, without failed tasks and those that need them."""
        total = done = 0.0
        for key, cost in self.costs.items():
            if key not in self.work_list.failed and key not in self.work_list.blocked:
                total += cost
                done += self.worked.get(key, 0.0)
        return done / total if total else 1.0

    def counted(self) -> str:
        """`3 of 12 trials`; counts stages if there are no trials."""
        counts = {key: len(task.trials) for key, task in self.work_list.tasks.items() if task.kind == "trial"}
        what = "trial" if counts else "stage"
        counts = counts or dict.fromkeys(self.work_list.tasks, 1)
        done = sum(counts.get(key, 0) for key in self.work_list.done)
        return f"{done} of {counted(sum(counts.values()), what)}"

    def left(self) -> str:
        """`about 12 min left`, at the speed so far; empty if that is not known yet or nothing is left."""
        seconds, fraction = self.clock() - self.begun, self.fraction()
        if seconds < TELLING_SECONDS or not 0 < fraction < 1:
            return ""
        return f"about {duration(seconds * (1 - fraction) / fraction)} left"

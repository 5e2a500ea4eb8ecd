"""What a user sees while a sweep runs: a line when a task starts or ends; in a terminal also progress bars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from mm1_lab.formatting import counted, duration
from mm1_lab.orchestrate.execution.worklist import Observer, Outcome
from mm1_lab.orchestrate.planning.cost import Speeds
from mm1_lab.orchestrate.planning.plan import Plan, Task, stage_seconds
from mm1_lab.train.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

REFRESH_SECONDS = 0.5
TELLING_SECONDS = 10.0  # before, the time that is left is not extrapolated


@dataclass
class Running:
    """A running task."""

    since: float
    kind: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0, 0))


def make_display(plan: Plan, speeds: Speeds, headline: Callable[[Task], str], out: TextIO) -> LineDisplay:
    """A display with progress bars if `out` is a terminal, otherwise with lines; `headline` tells a trial's scores."""
    return (BarDisplay if out.isatty() else LineDisplay)(plan, speeds, headline, out)


class LineDisplay(Observer):
    """Prints a line when a task starts, ends or fails; for logs and pipes."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, plan: Plan, speeds: Speeds, headline: Callable[[Task], str], out: TextIO) -> None:
        self.tasks = plan.tasks
        self.headline = headline
        self.out = out
        self.begun = self.clock()
        self.costs = {
            key: {stage.KIND: stage_seconds(stage, speeds) for stage in task.stages} for key, task in plan.tasks.items()
        }
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.failures: set[str] = set()

    def started(self, task: Task) -> None:
        self.start(task)
        self.line(f"starts    {task.label}")

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        if progress.note:
            self.line(f"note      {task.label}: {progress.note}")
        running = self.running[task.key]
        running.kind, running.progress = kind, progress

    def finished(self, task: Task) -> None:
        seconds = self.end(task)
        count = ", ".join(filter(None, [self.counted(), self.left()]))
        scores = self.headline(task) if task.kind == "trial" else ""
        self.line(f"done      {task.label} in {duration(seconds)} ({count})" + (f": {scores}" if scores else ""))

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        self.end(task, failed=True)
        kind = outcome.kind if outcome.kind != "out of memory" else "failed"
        self.line(f"{kind:9} {task.label}: {outcome.reason}" + (" (will retry)" if again else ""))

    def start(self, task: Task) -> None:
        self.running[task.key] = Running(self.clock())
        self.failures.discard(task.key)

    def end(self, task: Task, failed: bool = False) -> float:
        """Returns the seconds that the task took."""
        (self.failures if failed else self.done).add(task.key)
        running = self.running.pop(task.key, None)
        return self.clock() - running.since if running else 0.0

    def close(self) -> None:
        """Stops drawing."""

    def line(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def share(self, key: str) -> float:
        """The share of a task that is done, by the expected time of its stages."""
        running, costs = self.running.get(key), self.costs[key]
        if running is None or running.kind not in costs or not sum(costs.values()):
            return float(key in self.done)
        kinds = list(costs)
        before = sum(costs[kind] for kind in kinds[: kinds.index(running.kind)])
        inside = running.progress.step / max(1, running.progress.steps)
        return (before + costs[running.kind] * inside) / sum(costs.values())

    def fraction(self) -> float:
        """The share of the plan that is done, by cost, without failed tasks and those that need them."""
        total = done = 0.0
        out = set(self.failures)
        for key, task in self.tasks.items():  # tasks come after those that they need
            if not out.isdisjoint(task.needs):
                out.add(key)
            if key not in out:
                cost = sum(self.costs[key].values())
                total += cost
                done += cost * self.share(key)
        return done / total if total else 1.0

    def counted(self) -> str:
        """`3 of 12 trials`; counts stages if the plan has no trials."""
        counts = {key: len(task.trials) for key, task in self.tasks.items() if task.kind == "trial"}
        what = "trial" if counts else "stage"
        counts = counts or dict.fromkeys(self.tasks, 1)
        return f"{sum(counts.get(key, 0) for key in self.done)} of {counted(sum(counts.values()), what)}"

    def left(self) -> str:
        """`about 12 min left`, at the plan's speed so far; empty if that is not known yet or nothing is left."""
        seconds, fraction = self.clock() - self.begun, self.fraction()
        if seconds < TELLING_SECONDS or not 0 < fraction < 1:
            return ""
        return f"about {duration(seconds * (1 - fraction) / fraction)} left"


class BarDisplay(LineDisplay):
    """Draws a bar for the plan and one per running task, below the lines of finished tasks; removed at the end."""

    def __init__(self, plan: Plan, speeds: Speeds, headline: Callable[[Task], str], out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(plan, speeds, headline, out)
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[told]}"))
        self.bars = Progress(*columns, console=Console(file=out, highlight=False), auto_refresh=False, transient=True)
        self.whole = self.bars.add_task("all", total=1.0, told="")
        self.bar_of: dict[str, TaskID] = {}
        self.drawn = 0.0
        self.bars.start()
        self.tick()

    def started(self, task: Task) -> None:
        self.start(task)
        self.bar_of[task.key] = self.bars.add_task(task.label, total=1.0, told="starts")

    def end(self, task: Task, failed: bool = False) -> float:
        if task.key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(task.key))
        return super().end(task, failed)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.drawn < REFRESH_SECONDS:
            return
        self.drawn = now
        for key, running in self.running.items():
            self.bars.update(self.bar_of[key], completed=self.share(key), told=_told(running.kind, running.progress))
        failed = f"{len(self.failures)} failed" if self.failures else ""
        told = ", ".join(filter(None, [self.counted(), failed, self.left()]))
        self.bars.update(self.whole, completed=self.fraction(), told=told)
        self.bars.refresh()

    def close(self) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, soft_wrap=True)


def _told(kind: str, progress: Progress) -> str:
    """`multimodal 120/1400, loss 3.214, 12,345 tokens/s`."""
    told = kind or "starts"
    if progress.steps:
        told += f" {progress.step}/{progress.steps}"
    if "loss" in progress.losses:
        told += f", loss {progress.losses['loss']:.3f}"
    return told + (f", {progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else "")

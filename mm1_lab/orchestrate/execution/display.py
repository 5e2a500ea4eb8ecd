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

TELLING_SECONDS = 10.0
"""Shortest running time from which the time that is left is extrapolated."""


@dataclass
class Running:
    """A running task."""

    since: float
    kind: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0, 0))

    def fraction(self, costs: dict[str, float]) -> float:
        """The share of the task that is done; `costs` are its stages' expected seconds by kind."""
        kinds = list(costs)
        if self.kind not in kinds or not sum(costs.values()):
            return 0.0
        before = sum(costs[kind] for kind in kinds[: kinds.index(self.kind)])
        inside = self.progress.step / self.progress.steps if self.progress.steps else 0.0
        return (before + costs[self.kind] * inside) / sum(costs.values())


class ProgressState:
    """What is running, what is left, and for how long; shared by both displays."""

    def __init__(self, plan: Plan, speeds: Speeds, clock: Callable[[], float] = time.monotonic) -> None:
        self.tasks = plan.tasks
        self.clock = clock
        self.begun = clock()
        self.costs = {
            key: {stage.KIND: stage_seconds(stage, speeds) for stage in task.stages} for key, task in plan.tasks.items()
        }
        self.running: dict[str, Running] = {}
        self.done: set[str] = set()
        self.failed: set[str] = set()

    def start(self, task: Task) -> None:
        self.running[task.key] = Running(self.clock())
        self.failed.discard(task.key)

    def end(self, task: Task, failed: bool = False) -> float:
        """Returns the seconds that the task took."""
        (self.failed if failed else self.done).add(task.key)
        running = self.running.pop(task.key, None)
        return self.clock() - running.since if running else 0.0

    def share(self, key: str) -> float:
        """The share of a task that is done."""
        running = self.running.get(key)
        return float(key in self.done) if running is None else running.fraction(self.costs[key])

    def fraction(self) -> float:
        """The share of the plan that is done, by cost, without failed tasks and those that need them."""
        total = done = 0.0
        out = set(self.failed)
        for key, task in self.tasks.items():  # tasks come after those that they need
            if not out.isdisjoint(task.needs):
                out.add(key)
            if key not in out:
                cost = sum(self.costs[key].values())
                total += cost
                done += cost * self.share(key)
        return done / total if total else 1.0

    def progress(self) -> str:
        """`3 of 12 trials`; counts stages if the plan has no trials."""
        trials = {key: len(task.trials) for key, task in self.tasks.items() if task.kind == "trial"}
        if not trials:
            return f"{len(self.done)} of {counted(len(self.tasks), 'stage')}"
        return f"{sum(trials.get(key, 0) for key in self.done)} of {counted(sum(trials.values()), 'trial')}"

    def left(self) -> str:
        """`about 12 min left`, at the plan's speed so far; empty if that is not known yet or nothing is left."""
        seconds, fraction = self.clock() - self.begun, self.fraction()
        if seconds < TELLING_SECONDS or not 0 < fraction < 1:
            return ""
        return f"about {duration(seconds * (1 - fraction) / fraction)} left"


Headline = Callable[[Task], str]
"""Returns the main scores of a finished trial as a short text."""


def make_display(plan: Plan, speeds: Speeds, headline: Headline, out: TextIO) -> LineDisplay:
    """A display with progress bars if `out` is a terminal, otherwise with lines only."""
    state = ProgressState(plan, speeds)
    return (BarDisplay if out.isatty() else LineDisplay)(state, headline, out)


class LineDisplay(Observer):
    """Prints a line when a task starts, ends or fails; for logs and pipes."""

    def __init__(self, state: ProgressState, headline: Headline, out: TextIO) -> None:
        self.state = state
        self.headline = headline
        self.out = out

    def started(self, task: Task) -> None:
        self.state.start(task)
        self.line(f"starts    {task.label}")

    def progress(self, task: Task, kind: str, progress: Progress) -> None:
        if progress.note:
            self.line(f"note      {task.label}: {progress.note}")
        running = self.state.running[task.key]
        running.kind, running.progress = kind, progress

    def finished(self, task: Task) -> None:
        seconds = self.state.end(task)
        count = ", ".join(filter(None, [self.state.progress(), self.state.left()]))
        scores = self.headline(task) if task.kind == "trial" else ""
        self.line(f"done      {task.label} in {duration(seconds)} ({count})" + (f": {scores}" if scores else ""))

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        self.state.end(task, failed=True)
        kind = outcome.kind if outcome.kind != "out of memory" else "failed"
        self.line(f"{kind:9} {task.label}: {outcome.reason}" + (" (will retry)" if again else ""))

    def close(self) -> None:
        """Stops drawing."""

    def line(self, text: str) -> None:
        print(text, file=self.out, flush=True)


class BarDisplay(LineDisplay):
    """Draws a bar for the plan and one per running task, below the lines of finished tasks; removed at the end."""

    def __init__(self, state: ProgressState, headline: Headline, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(state, headline, out)
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[told]}"))
        console = Console(file=out, highlight=False)
        self.bars = Progress(*columns, console=console, auto_refresh=False, transient=True)
        self.whole = self.bars.add_task("all", total=1.0, told="")
        self.bar_of: dict[str, TaskID] = {}
        self.drawn = 0.0
        self.bars.start()
        self.tick()

    def started(self, task: Task) -> None:
        self.state.start(task)
        self.bar_of[task.key] = self.bars.add_task(task.label, total=1.0, told="starts")

    def finished(self, task: Task) -> None:
        self._remove(task)
        super().finished(task)

    def failed(self, task: Task, outcome: Outcome, again: bool) -> None:
        self._remove(task)
        super().failed(task, outcome, again)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.drawn < REFRESH_SECONDS:
            return
        self.drawn = now
        state = self.state
        for key, running in state.running.items():
            self.bars.update(self.bar_of[key], completed=state.share(key), told=_told(running, now))
        failed = f"{len(state.failed)} failed" if state.failed else ""
        told = ", ".join(filter(None, [state.progress(), failed, state.left()]))
        self.bars.update(self.whole, completed=state.fraction(), told=told)
        self.bars.refresh()

    def close(self) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, soft_wrap=True)

    def _remove(self, task: Task) -> None:
        if task.key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(task.key))


def _told(running: Running, now: float) -> str:
    """`multimodal 120/1400, loss 3.214, 12,345 tokens/s`."""
    progress = running.progress
    if not running.kind:
        return f"starts, {duration(now - running.since)}"
    parts = [f"{running.kind} {progress.step}/{progress.steps}" if progress.steps else running.kind]
    if "loss" in progress.losses:
        parts.append(f"loss {progress.losses['loss']:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    return ", ".join(parts)

"""What a user sees while a sweep runs: one live table on a terminal, else a line where a unit starts or ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from mm1_lab.orchestrate.cost import Speeds
from mm1_lab.orchestrate.plan import Plan, Unit, unit_cost
from mm1_lab.orchestrate.worklist import Observer
from mm1_lab.train.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_SECONDS = 0.5

TELLING_SECONDS = 30.0
"""How long work of one kind must have taken to tell how long another kind will take."""


@dataclass
class Running:
    """A unit at work."""

    unit: Unit
    since: float
    kind: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0, 0))

    def fraction(self, costs: dict[str, float]) -> float:
        """The share of the unit's work that is done; `costs` of its stages by kind."""
        total = sum(costs.values())
        before = 0.0
        for kind, cost in costs.items():
            if kind == self.kind:
                inside = self.progress.step / self.progress.steps if self.progress.steps else 0.0
                return (before + cost * inside) / total
            before += cost
        return 0.0


class Board:
    """What runs, what is left, and for how long; the same for both kinds of display."""

    def __init__(self, plan: Plan, speeds: Speeds, clock: Callable[[], float] = time.monotonic) -> None:
        self.units = plan.units
        self.clock = clock
        self.costs = {
            key: {stage.KIND: unit_cost(Unit(key, (stage,), (), unit.names), speeds) for stage in unit.stages}
            for key, unit in plan.units.items()
        }
        self.measured = bool(speeds.seconds_per_flop)
        self.running: dict[str, Running] = {}
        self.side_by_side = 1
        """The most units that ran at a time; between two of them it is one less."""
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.spent: dict[str, tuple[float, float]] = {}
        """By kind of unit: seconds and cost of what is finished."""
        self.trials = sum(len(unit.names) for unit in plan.units.values() if unit.kind == "trial")

    def start(self, unit: Unit) -> None:
        self.running[unit.key] = Running(unit, self.clock())
        self.side_by_side = max(self.side_by_side, len(self.running))
        self.failed.pop(unit.key, None)

    def advance(self, unit: Unit, kind: str, progress: Progress) -> None:
        running = self.running[unit.key]
        running.kind, running.progress = kind, progress

    def end(self, unit: Unit, failure: str | None = None) -> float:
        """Returns the seconds that the unit took."""
        running = self.running.pop(unit.key, None)
        seconds = self.clock() - running.since if running else 0.0
        if failure is None:
            self.done.add(unit.key)
            earlier = self.spent.get(unit.kind, (0.0, 0.0))
            self.spent[unit.kind] = (earlier[0] + seconds, earlier[1] + sum(self.costs[unit.key].values()))
        else:
            self.failed[unit.key] = failure
        return seconds

    def progress(self) -> str:
        """`3 of 12 trials`; units are counted where there are no trials."""
        if not self.trials:
            return f"{len(self.done)} of {len(self.units)} pieces of work"
        done = sum(len(self.units[key].names) for key in self.done if self.units[key].kind == "trial")
        return f"{done} of {self.trials} trials"

    def seconds_left(self) -> float | None:
        """From the speeds so far and the work that remains; None before there is anything to go by."""
        ratios = self._ratios()
        long = [seconds / cost for seconds, cost in self._spent().values() if seconds >= TELLING_SECONDS]
        usual = max(long) if long else 1.0 if self.measured else None
        remaining = {}
        for key, unit in self.units.items():
            if key in self.done or key in self.failed:
                continue
            running = self.running.get(key)
            share = 1 - running.fraction(self.costs[key]) if running else 1.0
            ratio = ratios.get(unit.kind, usual)
            if ratio is None:
                return None
            remaining[key] = sum(self.costs[key].values()) * share * ratio
        longest = max((remaining[key] for key in self.running if key in remaining), default=0.0)
        return max(longest, sum(remaining.values()) / self.side_by_side)

    def _ratios(self) -> dict[str, float]:
        """Seconds a unit of cost, by kind of unit."""
        return {kind: seconds / cost for kind, (seconds, cost) in self._spent().items() if cost > 0}

    def _spent(self) -> dict[str, tuple[float, float]]:
        """Seconds and cost, by kind of unit, of what is finished and what runs for long enough to tell."""
        spent = dict(self.spent)
        for key, running in self.running.items():
            fraction = running.fraction(self.costs[key])
            if fraction > 0.05:
                seconds, cost = spent.get(running.unit.kind, (0.0, 0.0))
                done = fraction * sum(self.costs[key].values())
                spent[running.unit.kind] = (seconds + self.clock() - running.since, cost + done)
        return spent


def make_display(plan: Plan, speeds: Speeds, out: TextIO = sys.stdout) -> LineDisplay | LiveDisplay:
    """The live table if `out` is a terminal."""
    board = Board(plan, speeds)
    return LiveDisplay(board, out) if out.isatty() else LineDisplay(board, out)


class LineDisplay(Observer):
    """A line where a unit starts, ends or fails; for logs and pipes."""

    def __init__(self, board: Board, out: TextIO) -> None:
        self.board = board
        self.out = out

    def started(self, unit: Unit) -> None:
        self.board.start(unit)
        self._line(f"starts    {unit.label}")

    def progress(self, unit: Unit, kind: str, progress: Progress) -> None:
        self.board.advance(unit, kind, progress)

    def finished(self, unit: Unit) -> None:
        seconds = self.board.end(unit)
        left = self.board.seconds_left()
        rest = (
            f"; about {duration(left)} left"
            if left is not None and len(self.board.done) < len(self.board.units)
            else ""
        )
        count = f"{self.board.progress()}{rest}"
        self._line(f"done      {unit.label} in {duration(seconds)} ({count})")

    def failed(self, unit: Unit, reason: str, again: bool) -> None:
        self.board.end(unit, reason)
        self._line(f"failed    {unit.label}: {reason}" + (" (tries again)" if again else ""))

    def tick(self) -> None:
        """Nothing moves between lines."""

    def close(self) -> None:
        """Nothing to put away."""

    def _line(self, text: str) -> None:
        print(text, file=self.out, flush=True)


class LiveDisplay(Observer):
    """One table that is drawn anew."""

    def __init__(self, board: Board, out: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.board = board
        self.drawn = 0.0
        self.live = Live(console=Console(file=out), auto_refresh=False)
        self.live.start()
        self.tick()

    def started(self, unit: Unit) -> None:
        self.board.start(unit)

    def progress(self, unit: Unit, kind: str, progress: Progress) -> None:
        self.board.advance(unit, kind, progress)

    def finished(self, unit: Unit) -> None:
        self.board.end(unit)

    def failed(self, unit: Unit, reason: str, again: bool) -> None:
        self.board.end(unit, reason)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.drawn >= REFRESH_SECONDS:
            self.drawn = now
            self.live.update(self._render(), refresh=True)

    def close(self) -> None:
        self.live.update(self._render(), refresh=True)
        self.live.stop()

    def _render(self) -> Table:
        from rich.table import Table

        board = self.board
        left = board.seconds_left()
        title = f"{board.progress()} done"
        title += f", {len(board.failed)} failed" if board.failed else ""
        if len(board.done) < len(board.units):
            title += f", about {duration(left)} left" if left is not None else ", time left not known yet"
        table = Table(title=title, title_justify="left", expand=False)
        for heading in ("running", "stage", "step", "loss", "tokens/s", "for"):
            table.add_column(heading, justify="left" if heading in ("running", "stage") else "right")
        for running in board.running.values():
            progress = running.progress
            loss = progress.losses.get("loss")
            table.add_row(
                running.unit.label,
                running.kind,
                f"{progress.step}/{progress.steps}" if progress.steps else "",
                f"{loss:.3f}" if loss is not None else "",
                f"{progress.tokens_per_second:,.0f}" if progress.tokens_per_second else "",
                duration(board.clock() - running.since),
            )
        for key, reason in board.failed.items():
            table.add_row(board.units[key].label, f"failed: {reason}")
        return table


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

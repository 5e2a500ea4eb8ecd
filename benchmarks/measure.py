"""Measurements: two sides that take turns, the medians of their times, and the budget for ours."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "mm1_lab.cli")
"""The command `mm1-lab` of this repository."""

Side = TypeVar("Side")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Seconds:
    """Duration of some work."""

    core: float
    """CPU time of this process over all its threads, which excludes other programs."""
    wall: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took."""

    wall: float
    """Seconds by the clock."""
    megabytes: float
    """Its peak memory, or that of its largest child."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The required result; exactly one of the two is set."""

    ours_at_most: float | None = None
    """In the row's unit."""
    ratio_at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: medians over the rounds, or None if nothing was measured."""

    what: str
    unit: str
    ours: float | None
    reference: float | None
    reference_is: str
    budget: Budget | None
    note: str
    rounds: tuple[tuple[float, float], ...]
    """(ours, reference) of each round; none if nothing was measured."""

    @property
    def ratio(self) -> float | None:
        """Ratio of the medians, ours / reference; None if nothing was measured."""
        return None if self.ours is None or self.reference is None else self.ours / self.reference

    @property
    def kept(self) -> bool | None:
        """Whether the budget is met; None without a budget or a measurement."""
        if self.budget is None or self.ours is None or self.ratio is None:
            return None
        if self.budget.ours_at_most is not None:
            return self.ours <= self.budget.ours_at_most
        assert self.budget.ratio_at_least is not None
        return self.ratio >= self.budget.ratio_at_least


def compare(
    what: str,
    unit: str,
    ours: Sequence[float],
    reference: Sequence[float],
    reference_is: str,
    budget: Budget | None = None,
    note: str = "",
) -> Row:
    """The row for two sides measured in the same rounds."""
    rounds = tuple(zip(ours, reference, strict=True))
    return Row(what, unit, median(ours), median(reference), reference_is, budget, note, rounds)


def unmeasured(what: str, unit: str, reference_is: str, budget: Budget | None, why: str) -> Row:
    """The row for something that was not measured; `why` is its note."""
    return Row(what, unit, None, None, reference_is, budget, why, ())


def seconds(work: Callable[[], object]) -> Seconds:
    """Times one call."""
    core, wall = time.process_time(), time.perf_counter()
    work()
    return Seconds(time.process_time() - core, time.perf_counter() - wall)


def alternate(sides: Mapping[Side, Callable[[int], Result]], rounds: int) -> dict[Side, list[Result]]:
    """Calls every side once per round with the round's number, in reverse order in every other round."""
    results: dict[Side, list[Result]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            results[name].append(sides[name](number))
    return results


def process_variables() -> dict[str, str]:
    """Environment of measured processes: this repository's package, one thread per computation."""
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return variables


def process_cost(command: Sequence[str], folder: Path) -> Cost:
    """Time and peak memory of a process run in `folder`. Raises RuntimeError as `timed_process` does."""
    # A process's peak begins with that of the process that starts it, so a small one has to start it.
    script = (
        "import resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "code = subprocess.call(sys.argv[2:])\n"
        "wall = time.perf_counter() - started\n"
        "print(wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=open(sys.argv[1], 'w'))\n"
        "sys.exit(code)"
    )
    with NamedTemporaryFile() as result:
        timed_process([sys.executable, "-c", script, result.name, *command], folder)
        return Cost(*map(float, result.read().split()))


def timed_process(command: Sequence[str], folder: Path) -> float:
    """Wall seconds of a process run in `folder`.

    Raises RuntimeError with the end of its output if it fails.
    """
    started = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=process_variables(), capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-2000:]}")
    return wall

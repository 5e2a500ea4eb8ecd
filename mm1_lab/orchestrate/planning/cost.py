"""Estimates how long a stage will take from earlier stages of its kind and size; checks for free disk space."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from mm1_lab.config import RequestError, Stage
from mm1_lab.files import SHIPPED
from mm1_lab.results import Ledger
from mm1_lab.results.packed import packed_records

NEWEST = 30
"""Measurements read per folder: enough for a median, and quick to read."""
ALIKE = 4.0
"""Stages are comparable if their FLOPs differ by at most this factor; a stage of `smoke`, which is mostly overhead,
says nothing about one of `mini`, which is thousands of times as large."""
FAR = 1e5
"""No estimate for a stage with more than this many times the FLOPs of any measured one: it needs other machines."""
LEAST = 3.0
"""Seconds that any stage takes to start, load and write, however small."""

Measured = Mapping[str, list[tuple[float, float]]]
"""FLOPs and seconds of finished stages, by kind of stage."""


def check_disk(stages: Collection[Stage], slots: int, store: Path) -> None:
    """Raises RequestError if the store's disk has too little room for these stages.

    The estimate is a lower bound: the weights of all stages, without embeddings, and the checkpoints of the `slots`
    largest stages in training. Each keeps up to two checkpoints of weights and Adam's two moments.
    """
    weights = sorted(4 * stage.parameters().total for stage in stages if stage.TRAINS)
    needed = sum(weights) + 6 * sum(weights[-slots:])
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RequestError(
            f"{store}: the sweep needs {needed / 1e9:.3g} GB there and {free / 1e9:.3g} GB are free; free some space "
            "(mm1-lab gc --keep best --yes) or give another --store"
        )


@dataclass(frozen=True)
class Speeds:
    """How long finished stages took: those of this results folder, or else those of the shipped study."""

    own: Measured = field(default_factory=dict)
    shipped: Path | None = None
    """The folder that holds the study and the shipped parts."""

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of this kind was measured, or only far smaller ones.

        Uses the median seconds per FLOP of stages of this kind with similar FLOPs: from this results folder, or else
        from the study, which took two cores of a server. Without similar stages, the nearest of either are used.
        """
        flops = stage.flops()
        if flops <= 0:
            return 0.0
        own = self.own.get(stage.KIND, [])
        if alike := _rates(own, flops):
            return median(alike) * flops
        studied = _of_study(self.shipped).get(stage.KIND, []) if self.shipped else []
        if not (own or studied):
            return None
        nearest = min((known for known, _ in (*own, *studied)), key=lambda known: abs(math.log(known / flops)))
        if flops > FAR * nearest:
            return None
        return max(LEAST, median(_rates(studied, flops) or _rates((*own, *studied), nearest)) * flops)


def measured_speeds(ledger: Ledger) -> Speeds:
    """The speeds of the most recent stages in the store and trials in the results folder."""
    stages = _newest(ledger.store.glob("*/timings.json"))
    trials = _newest(ledger.trials.glob("*/record.json"))
    return Speeds(_measured(_read(stages), _read(trials)), SHIPPED / "results")


@cache
def _of_study(folder: Path) -> Measured:
    return _measured(_read(folder.glob("parts/*/timings.json")), packed_records(folder / "study"))


def _rates(measured: Iterable[tuple[float, float]], flops: float) -> list[float]:
    """Seconds per FLOP of the measurements with similar FLOPs."""
    return [seconds / known for known, seconds in measured if 1 / ALIKE <= known / flops <= ALIKE]


def _measured(stages: Iterable[Any], trials: Iterable[Any]) -> Measured:
    """From the contents of `timings.json` of stages and of `record.json` of trials."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for timings in (*stages, *(record["timings"] for record in trials if "timings" in record)):
        with suppress(ValueError, TypeError, KeyError, AttributeError):  # one of another shape
            for kind, timing in timings.items():
                if (flops := float(timing["flops"])) > 0:
                    measured[kind].append((flops, float(timing["seconds"])))
    return measured


def _read(paths: Iterable[Path]) -> Iterator[Any]:
    for path in paths:
        # damaged files are reported when results are read; an estimate does without them
        with suppress(OSError, ValueError, RecursionError):
            yield json.loads(path.read_text(encoding="utf-8"))


def _newest(paths: Iterable[Path]) -> list[Path]:
    dated = []
    for path in paths:
        with suppress(OSError):  # another command has just renamed or deleted its folder
            dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated)[-NEWEST:]]

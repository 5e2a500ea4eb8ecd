"""How long a stage will take, from what stages of its kind and size took before; and whether the disk has room."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

from mm1_lab.config import RequestError, Stage
from mm1_lab.files import SHIPPED
from mm1_lab.results import Ledger

NEWEST = 30
"""Measurements that are read of a folder: enough for a median, and reading stays quick."""
ALIKE = 4.0
"""Stages whose FLOPs differ by at most this factor tell about each other; a stage of `smoke`, which is mostly overhead,
tells nothing about one of `mini`, which is thousands of times as large."""
STUDY_MATMUL = 77e9
"""FLOPs per second of `machine_speed` on a core of the machine that made the committed study."""

FAR = 1e5
"""Times as many FLOPs as anything measured: what is so much larger runs on other machines."""
LEAST = 3.0
"""Seconds of a stage that is much smaller than all that were measured: it starts, loads and writes."""

Measured = Mapping[str, list[tuple[float, float]]]
"""By kind of stage: FLOPs and seconds of finished stages."""


def check_disk(stages: Collection[Stage], slots: int, store: Path) -> None:
    """Raises RequestError where the store's disk has not room for these stages.

    At least: weights of all stages, without embeddings, and checkpoints while `slots` of the largest train. There are
    three of each: the last, the one before and the next, of weights and Adam's two moments.
    """
    weights = [4 * stage.parameters().total for stage in stages if stage.TRAINS]
    needed = sum(weights) + slots * 9 * max(weights, default=0)
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RequestError(
            f"{store}: the sweep needs {needed / 1e9:.3g} GB there and {free / 1e9:.3g} GB are free; make room "
            "(mm1-lab gc --keep best) or give another --store"
        )


@dataclass(frozen=True)
class Speeds:
    """What finished stages took: those of this results folder, or else of the study that comes with the package."""

    own: Measured = field(default_factory=dict)
    shipped: Path | None = None
    """The folder of the study and the shipped parts."""

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of the kind was ever measured, or none but far smaller ones.

        By the median rate of stages of the kind that are alike in FLOPs: own ones, or else those of the study at this
        machine's speed; where there are none, of the nearest of either.
        """
        flops = stage.flops()
        if flops <= 0:
            return 0.0
        own = self.own.get(stage.KIND, [])
        if alike := _rates(own, flops):
            return median(alike) * flops
        studied = _of_study(self.shipped).get(stage.KIND, []) if self.shipped else []
        studied = [(known, seconds * STUDY_MATMUL / machine_speed()) for known, seconds in studied]
        if not (own or studied):
            return None
        nearest = min((known for known, _ in (*own, *studied)), key=lambda known: abs(math.log(known / flops)))
        if flops > FAR * nearest:
            return None
        return max(LEAST, median(_rates(studied, flops) or _rates((*own, *studied), nearest)) * flops)


def measured_speeds(ledger: Ledger) -> Speeds:
    """From the newest finished stages in the store and trials in the results."""
    stages = _newest(ledger.store.glob("*/timings.json"))
    trials = _newest(ledger.results.glob("trials/*/record.json"))
    return Speeds(_measured(stages, trials), SHIPPED / "results")


@cache
def _of_study(folder: Path) -> Measured:
    return _measured(folder.glob("parts/*/timings.json"), folder.glob("study/trials/*/record.json"))


def _rates(measured: Iterable[tuple[float, float]], flops: float) -> list[float]:
    """Seconds per FLOP of what is alike."""
    return [seconds / known for known, seconds in measured if 1 / ALIKE <= known / flops <= ALIKE]


def _measured(stages: Iterable[Path], trials: Iterable[Path]) -> Measured:
    """From `timings.json` of stages and `record.json` of trials."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path in (*stages, *trials):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            timings = values if path.name == "timings.json" else values.get("timings", {})
            for kind, timing in timings.items():
                if (flops := float(timing["flops"])) > 0:
                    measured[kind].append((flops, float(timing["seconds"])))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # whoever reads results tells of a damaged file; an estimate goes without it
    return measured


def _newest(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)[-NEWEST:]


@cache
def machine_speed() -> float:
    """FLOPs per second of a core in small matrix products, as models at `mini` have them; takes a third of a second."""
    import numpy as np

    stack = np.ones((64, 64, 64), np.float32)  # products so small that BLAS takes one thread for each
    best, end = math.inf, time.monotonic() + 0.3
    while time.monotonic() < end:
        started = time.monotonic()
        np.matmul(stack, stack)
        best = min(best, time.monotonic() - started)
    return 2 * 64**4 / best

"""What a stage costs, before it runs: bytes, and seconds from what stages of its kind and size took before."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from mm1_lab.config import Stage
from mm1_lab.results import Ledger

REPOSITORY = Path(__file__).resolve().parents[2]
NEWEST = 30
"""Measurements that are read of a folder: enough for a median, and reading stays quick."""
ALIKE = 4.0
"""Stages whose FLOPs differ by at most this factor tell about each other; a stage of `smoke`, which is mostly overhead,
tells nothing about one of `mini`, which is thousands of times as large."""
STUDY_MATMUL = 77e9
"""FLOPs a second of `machine_speed` on a core of the machine that made the committed study."""


def disk_bytes(stage: Stage) -> int:
    """What a finished stage leaves: its weights at four bytes a parameter."""
    return 4 * stage.parameters() if stage.TRAINS else 0


def memory_bytes(stage: Stage) -> int:
    """Weights, and in training gradients and Adam's two moments, at four bytes each; activations left out."""
    return (16 if stage.TRAINS else 4) * stage.parameters()


Measured = Mapping[str, list[tuple[float, float]]]
"""By kind of stage: FLOPs and seconds of finished stages."""


@dataclass(frozen=True)
class Speeds:
    """What finished stages took: those of this results folder, or else of the study that comes with the repository."""

    own: Measured = field(default_factory=dict)
    study_folder: Path | None = None

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of the kind was ever measured.

        By the median rate of stages of the kind that are alike in FLOPs: own ones, or else those of the study at this
        machine's speed; where there are none, of the nearest of either.
        """
        flops = stage.flops()
        if flops <= 0:
            return 0.0
        own = self.own.get(stage.KIND, [])
        if alike := _rates(own, flops):
            return median(alike) * flops
        studied = [(known, seconds * STUDY_MATMUL / machine_speed()) for known, seconds in self._study(stage.KIND)]
        if not (own or studied):
            return None
        nearest = min((known for known, _ in (*own, *studied)), key=lambda known: abs(math.log(known / flops)))
        rates = _rates(studied, flops) or _rates((*own, *studied), nearest)
        return median(rates) * flops

    def _study(self, kind: str) -> list[tuple[float, float]]:
        return _read_study(self.study_folder).get(kind, []) if self.study_folder else []


@cache
def _read_study(folder: Path) -> Measured:
    return _measured(folder.glob("parts/*/timings.json"), folder.glob("study/trials/*/"))


def _rates(measured: Iterable[tuple[float, float]], flops: float) -> list[float]:
    """Seconds per FLOP of what is alike."""
    return [seconds / known for known, seconds in measured if 1 / ALIKE <= known / flops <= ALIKE]


def measured_speeds(ledger: Ledger) -> Speeds:
    """From the newest finished stages in the store and trials in the results."""
    stages = _newest(ledger.store.glob("*/timings.json"))
    trials = _newest(ledger.results.glob("trials/*/"))
    return Speeds(_measured(stages, trials), REPOSITORY / "results")


def _measured(stages: Iterable[Path], trials: Iterable[Path]) -> Measured:
    """From `timings.json` of stages, and `record.json` in the folders of trials."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    timings = [_read(path) for path in stages]
    timings += [_read(path).get("timings", {}) for folder in trials if (path := folder / "record.json").exists()]
    for timing in timings:
        for kind, one in timing.items():
            measured[kind].append((one["flops"], one["seconds"]))
    return measured


def _newest(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)[-NEWEST:]


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


@cache
def machine_speed() -> float:
    """FLOPs a second of a core in small matrix products, as models at `mini` have them; takes a third of a second."""
    import numpy as np

    stack = np.ones((64, 64, 64), np.float32)  # products so small that BLAS takes one thread for each
    best, end = math.inf, time.monotonic() + 0.3
    while time.monotonic() < end:
        started = time.monotonic()
        np.matmul(stack, stack)
        best = min(best, time.monotonic() - started)
    return 2 * 64**4 / best

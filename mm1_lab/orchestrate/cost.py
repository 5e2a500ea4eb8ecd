"""How long a stage will take, from what such stages took before, by their FLOPs; and whether the disk has room."""

import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mm1_lab.config import RequestError, Stage
from mm1_lab.results import Ledger


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
    """Seconds a FLOP, by kind of stage, as measured before."""

    seconds_per_flop: dict[str, float]

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of the kind was ever measured here."""
        rate = self.seconds_per_flop.get(stage.KIND)
        return None if rate is None else rate * stage.flops()


def measured_speeds(ledger: Ledger, newest: int = 30) -> Speeds:
    """From what the newest finished stages in the store and trials in the results took."""
    rates: dict[str, list[float]] = {}
    stages = _newest(ledger.store.glob("*/timings.json"), newest)
    trials = _newest(ledger.results.glob("trials/*/record.json"), newest)
    for path in [*stages, *trials]:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            timings = values if path in stages else values.get("timings", {})
            for kind, timing in timings.items():
                rates.setdefault(kind, []).append(timing["seconds"] / timing["flops"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
            continue  # whoever reads results tells of a damaged file; an estimate goes without it
    return Speeds({kind: median(values) for kind, values in rates.items()})


def _newest(paths: Iterable[Path], count: int) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)[-count:]

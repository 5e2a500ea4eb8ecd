"""Overhead of a sweep beyond its trials' own work: ours, and a default Ray Tune + Lightning + MLflow sweep.

Encoder and decoder are trained beforehand; each trial consists of multimodal training and evaluation at smoke scale,
where the overhead is not negligible. Two sides, each on all processors:

    ours    `mm1-lab run`, from start to exit: Ray, ledger, MLflow, tables and figure included.
    stock   `stock_sweep.py`, likewise.

A trial's own work is the mean over the same sweep's trials, without the first of each processor: of ours, the seconds
of training and evaluation in its record; of stock's, from the file that it creates once everything is imported to the
one that it creates before it reports. Checkpoints and progress reports during training are part of it on both sides.

Overhead of each additional trial: the time from the end of a processor's first trial to that of its last, per trial,
minus own work. Fixed costs: all other wall time (starting Python, Ray and MLflow, imports, the first trial beyond its
own work, idle processors during the last trials, drawing). The overhead per trial, fixed costs included, is wall
seconds / trials per processor − own work.

Also measured: the seconds from the command until a trial has done its first training step. Ours then begins its file
of losses, for which the folder is watched; stock's creates a file.

Trials at larger scales take longer; overhead that grows with their length (progress reports) is not measured here.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from threading import Event, Thread

import yaml

from benchmarks.measure import COMMAND, Budget, Row, alternate, compare, timed_process
from benchmarks.setting import SWEEP, Amounts, multimodal_stage, trained_parts
from benchmarks.stock_sweep import ENDED, STARTED, STEPPED, trial_stage
from mm1_lab.data.world import World
from mm1_lab.machine import machine_cpus
from mm1_lab.results import Ledger
from mm1_lab.train.recorder import CURVE

SCALE = "smoke"
ROUNDS = 2
"""At most, of whole sweeps: one takes minutes, and all of `make bench` is to take less than twenty."""
LOOK = 0.05
"""Seconds between two looks for the first step: a hundredth of what it may take."""
STORE = Path("results/local/store")
STOCK = "stock Ray Tune + Lightning + MLflow callback"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A finished sweep."""

    wall: float
    first: float
    """Seconds until a trial had done its first training step."""
    ends: Sequence[float]
    """When each trial ended, in order."""
    own: float
    """A trial's own work in seconds."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """In seconds per processor."""

    whole: float
    """Per trial, fixed costs included."""
    further: float
    """Per additional trial."""
    once: float
    """Fixed costs."""


def measure(amounts: Amounts) -> list[Row]:
    """The rows for a sweep's overhead."""
    processors = machine_cpus()
    count = processors * amounts.trials
    with TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        make_parts(parts)
        sweep = write_sweep(Path(folder), count)

        def ours(number: int) -> Sweep:
            place = Path(folder) / f"ours-{number}"
            shutil.copytree(parts, place / STORE)
            began = time.time()
            with first_seen(place / STORE, f"*.partial/{CURVE}") as seen:
                wall = timed_process([*COMMAND, "run", str(sweep), "--scale", SCALE], place)
            done = sorted(place.glob("results/local/trials/*/DONE"), key=_written)
            ends = _times(done, count)
            return Sweep(wall, seen[0] - began, ends, fmean(map(_own_work, done[processors:])))

        def stock(number: int) -> Sweep:
            place = Path(folder) / f"stock-{number}"
            place.mkdir()
            command = [sys.executable, "-m", "benchmarks.stock_sweep", str(parts), json.dumps(rates(count))]
            began = time.time()
            wall = timed_process(command, place)
            starts, ends = (_times(place.glob(files), count) for files in (f"*.{STARTED}", f"*.{ENDED}"))
            first = min(map(_written, place.glob(f"*.{STEPPED}")))
            return Sweep(wall, first - began, ends, fmean(ends[processors:]) - fmean(starts[processors:]))

        sweeps = alternate({"ours": ours, "stock": stock}, min(amounts.rounds, ROUNDS))
    overheads = {side: [overhead(one, processors) for one in of_side] for side, of_side in sweeps.items()}
    firsts = {side: [one.first for one in of_side] for side, of_side in sweeps.items()}
    own = {side: fmean(one.own for one in of_side) for side, of_side in sweeps.items()}
    note = f"a trial's own work is {own['ours']:.2f} s, {own['stock']:.2f} s; {processors} processors; {SCALE} scale"
    return [*_rows(overheads["ours"], overheads["stock"], count, note), _first_row(firsts["ours"], firsts["stock"])]


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _times(paths: Iterable[Path], count: int) -> list[float]:
    """When trials ended, or started, by the files that mark it. Raises RuntimeError if there are not `count`."""
    ends = sorted(map(_written, paths))
    if len(ends) != count:
        raise RuntimeError(f"{len(ends)} of {count} trials are done")
    return ends


def _own_work(done: Path) -> float:
    """Seconds of a trial's training and evaluation, from its record."""
    timings = json.loads(done.with_name("record.json").read_text(encoding="utf-8"))["timings"]
    return float(timings["multimodal"]["seconds"] + timings["evaluation"]["seconds"])


def overhead(sweep: Sweep, processors: int) -> Overhead:
    """The overhead of a sweep whose trials are alike, so that each processor's first one is among the first to end."""
    ends, own, each = sweep.ends, sweep.own, len(sweep.ends) / processors
    after_first = (sum(ends[-processors:]) - sum(ends[:processors])) / processors
    return Overhead(
        whole=sweep.wall / each - own, further=after_first / (each - 1) - own, once=sweep.wall - after_first - own
    )


@contextmanager
def first_seen(folder: Path, files: str) -> Iterator[list[float]]:
    """Appends to a list, while the block runs, when the first of `files` appeared. The list stays empty if none did."""
    seen: list[float] = []
    over = Event()

    def watch() -> None:
        while not (seen or over.wait(LOOK)):
            if any(folder.glob(files)):
                seen.append(time.time())

    thread = Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _first_row(ours: list[float], stock: list[float]) -> Row:
    return compare(
        "time until the first training step is done",
        "s (wall)",
        ours,
        stock,
        STOCK,
        Budget(5),
    )


def _rows(ours: list[Overhead], stock: list[Overhead], trials: int, note: str) -> list[Row]:
    return [
        compare(
            f"sweep overhead, {trials} trials",
            "s / trial",
            [overhead.whole for overhead in ours],
            [overhead.whole for overhead in stock],
            STOCK,
            Budget(0.5),
            f"fixed costs included; {note}",
        ),
        compare(
            "sweep overhead, additional trials",
            "s / trial",
            [overhead.further for overhead in ours],
            [overhead.further for overhead in stock],
            STOCK,
            Budget(0.5),
            note,
        ),
        compare(
            "sweep overhead, fixed",
            "s (wall)",
            [overhead.once for overhead in ours],
            [overhead.once for overhead in stock],
            STOCK,
            note="for starting Python, Ray, MLflow and the first processes; ours also draws tables and a figure",
        ),
    ]


def rates(count: int) -> list[float]:
    """One learning rate per trial; trials differ in nothing that affects their duration."""
    return [float(f"{0.002 + 0.00001 * number:.5f}") for number in range(count)]


def write_sweep(folder: Path, count: int) -> Path:
    """Writes our sweep over those learning rates."""
    path = folder / f"rates_{count}.yaml"
    arms = {f"rate {rate:g}": {"learning_rate": rate} for rate in rates(count)}
    values = {"title": "Rates", "reproduces": "nothing", "axis": "learning_rate", "recipe": "base", "arms": arms}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for name in ("recipes", "scales"):
        shutil.copytree(SWEEP.parent / name, folder / name, dirs_exist_ok=True)
    return path


def make_parts(store: Path) -> None:
    """Trains the encoder and the decoder that all trials share."""
    from mm1_lab.train.stages import run_stage

    data = World()
    stage = multimodal_stage(trial_stage(rates(1)[0]))
    ledger = Ledger(store / "unused", store)
    for part in trained_parts(stage):
        folder = ledger.begin_stage(part.fingerprint)
        assert folder is not None
        run_stage(part, folder, {}, data, lambda progress: None)
        ledger.finish_stage(part.fingerprint)

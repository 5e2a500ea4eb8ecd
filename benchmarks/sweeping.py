"""Overhead of a sweep beyond its trials' own work: ours, and a default Ray Tune + Lightning + MLflow sweep.

Encoder and decoder are trained beforehand; each trial consists of multimodal training and evaluation at smoke scale,
where the overhead is not negligible. Three sides, each on all processors:

    plain   one process per processor that only runs the trials' two functions, one trial after another. The median
            without the first trials is a trial's own work on this machine while all its processors are busy.
    ours    `mm1-lab run`, from start to exit: Ray, ledger, MLflow, tables and figure included.
    stock   `stock_sweep.py`, likewise.

The overhead per trial is wall seconds / trials per processor − own work. It includes fixed costs (starting Python and
Ray, drawing, idle processors during the last trials), spread over the trials. A short sweep with one trial per
processor separates them: the overhead of each additional trial is the difference in wall seconds / the difference in
trials per processor − own work.

Also measured: the seconds from the command until the first trial starts, when its process has imported everything.

Trials at larger scales take longer; overhead that grows with their length (progress reports) is not measured here.
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from benchmarks.measure import COMMAND, Budget, Row, alternate, compare, process_variables, timed_process
from benchmarks.setting import SWEEP, Amounts, world
from benchmarks.stock_sweep import STARTED, trial_stage
from mm1_lab.orchestrate.request import machine_cpus
from mm1_lab.results import Ledger
from mm1_lab.results.schema import CODE

SCALE = "smoke"
PLAIN_TRIALS = 4
"""Trials per process; the first is not counted."""
STORE = Path("results/local/store")
STOCK = "stock Ray Tune + Lightning + MLflow callback"


@dataclass(frozen=True, slots=True)
class Overhead:
    """In seconds per processor."""

    own: float
    """A trial's own work."""
    whole: float
    """Overhead per trial, fixed costs included."""
    further: float
    """Overhead per additional trial."""
    once: float
    """Fixed costs: wall seconds of the short sweep minus its trials' own work."""


def measure(amounts: Amounts) -> list[Row]:
    """The rows for a sweep's overhead."""
    with TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        _make_parts(parts)
        few = machine_cpus()
        many = few * amounts.trials
        sweeps = {count: _write_sweep(Path(folder), count) for count in (few, many)}
        first: dict[str, list[float]] = {"ours": [], "stock": []}

        def ours(count: int, number: int) -> float:
            place = Path(folder) / f"ours-{count}-{number}"
            shutil.copytree(parts, place / STORE)
            began = time.time()
            wall = timed_process([*COMMAND, "run", str(sweeps[count]), "--scale", SCALE], place)
            first["ours"].append(_first(place / STORE, CODE) - began)
            finished = len(list(place.glob("results/local/trials/*/DONE")))
            if finished != count:
                raise RuntimeError(f"{finished} of {count} trials are done")
            return wall

        def stock(count: int, number: int) -> float:
            place = Path(folder) / f"stock-{count}-{number}"
            place.mkdir()
            command = [sys.executable, "-m", "benchmarks.stock_sweep", "tune", str(parts), json.dumps(rates(count))]
            began = time.time()
            wall = timed_process(command, place)
            first["stock"].append(_first(place, f"*.{STARTED}") - began)
            return wall

        sides = {
            "plain": lambda number: _plain(parts, Path(folder)),
            "ours few": lambda number: ours(few, number),
            "stock few": lambda number: stock(few, number),
            "ours": lambda number: ours(many, number),
            "stock": lambda number: stock(many, number),
        }
        times = alternate(sides, amounts.rounds)
    ours_overheads, stock_overheads = (
        _overheads(times["plain"], times[f"{side} few"], times[side], amounts.trials) for side in ("ours", "stock")
    )
    return [*_rows(ours_overheads, stock_overheads, many), _first_row(first["ours"], first["stock"])]


def _first(folder: Path, mark: str) -> float:
    """When the first trial started, from the file that each trial creates."""
    return min(path.stat().st_mtime for path in folder.rglob(mark))


def _first_row(ours: list[float], stock: list[float]) -> Row:
    return compare(
        "time until the first trial starts",
        "s (wall)",
        ours,
        stock,
        STOCK,
        Budget(5),
        "until its process has imported everything",
    )


def _overheads(plain: list[float], few: list[float], many: list[float], each: int) -> list[Overhead]:
    """For each round; the long sweep has `each` trials per processor, the short one has one."""
    own = median(plain)
    return [
        Overhead(own=own, whole=long / each - own, further=(long - short) / (each - 1) - own, once=short - own)
        for short, long in zip(few, many, strict=True)
    ]


def _rows(ours: list[Overhead], stock: list[Overhead], trials: int) -> list[Row]:
    own = f"a trial's own work is {ours[0].own:.2f} s; {machine_cpus()} processors; {SCALE} scale"
    return [
        compare(
            f"sweep overhead, {trials} trials",
            "s / trial",
            [overhead.whole for overhead in ours],
            [overhead.whole for overhead in stock],
            STOCK,
            Budget(0.5),
            f"fixed costs included; {own}",
        ),
        compare(
            "sweep overhead, additional trials",
            "s / trial",
            [overhead.further for overhead in ours],
            [overhead.further for overhead in stock],
            STOCK,
            Budget(0.5),
            own,
        ),
        compare(
            "sweep overhead, fixed",
            "s (wall)",
            [overhead.once for overhead in ours],
            [overhead.once for overhead in stock],
            STOCK,
            note="for starting Python, Ray and MLflow; ours also draws tables and a figure",
        ),
    ]


def rates(count: int) -> list[float]:
    """One learning rate per trial; trials differ in nothing that affects their duration."""
    return [float(f"{0.002 + 0.00001 * number:.5f}") for number in range(count)]


def _write_sweep(folder: Path, count: int) -> Path:
    """Writes our sweep over those learning rates."""
    path = folder / f"rates_{count}.yaml"
    arms = {f"rate {rate:g}": {"learning_rate": rate} for rate in rates(count)}
    values = {"title": "Rates", "reproduces": "nothing", "axis": "learning_rate", "recipe": "base", "arms": arms}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for name in ("recipes", "scales"):
        shutil.copytree(SWEEP.parent / name, folder / name, dirs_exist_ok=True)
    return path


def _make_parts(store: Path) -> None:
    """Trains the encoder and the decoder that all trials share."""
    from mm1_lab.train.stages import run_stage

    data = world()
    stage = trial_stage(rates(1)[0]).model
    ledger = Ledger(store / "unused", store)
    for part in (stage.encoder, stage.decoder):
        folder = ledger.begin_stage(part.fingerprint)
        assert folder is not None
        run_stage(part, folder, {}, data, lambda progress: None)
        ledger.finish_stage(part.fingerprint)


def _plain(parts: Path, folder: Path) -> float:
    """Median seconds of a trial's own work while every processor is running one."""
    command = [sys.executable, "-m", "benchmarks.stock_sweep", "plain", str(parts), json.dumps(rates(PLAIN_TRIALS))]
    processes = [
        subprocess.Popen(command, cwd=folder, env=process_variables(), stdout=subprocess.PIPE, text=True)
        for _ in range(machine_cpus())
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a plain process failed; its traceback is above")
    times = [json.loads(output.splitlines()[-1])[1:] for output in outputs]
    return median(second for of_process in times for second in of_process)

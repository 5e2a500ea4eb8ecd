"""What a sweep adds to its trials' own work: ours, and a stock Ray Tune + Lightning + MLflow sweep of the same trials.

The trials' encoder and decoder are done; each trial is its multimodal training and its evaluation, at smoke scale,
which keeps what is measured from drowning in training. Three sides, each on all processors:

    plain   one process a processor that runs the trials' two functions one after another; nothing else. The median
            of these, first trials left out, is a trial's own work on this machine while all its processors work.
    ours    `mm1-lab run`, from the shell's prompt to the prompt: Ray, ledger, MLflow, tables and figure included.
    stock   `stock_sweep.py`, likewise.

A sweep's overhead a trial is wall seconds / trials a processor − own work. Whatever is paid once (starting Python
and Ray, drawing, waiting for the last trial while other processors are idle) is in it, shared by the trials. A short
sweep of one trial a processor tells that apart: the overhead of each further trial is the difference in wall seconds
/ the difference in trials a processor − own work.

Beside that, the seconds from the command to where the first trial begins: its process has imported all that it needs.

At larger scales a trial lasts longer; what grows with its length (a progress report a second) is not measured here.
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
"""A process; the first is not counted."""
STORE = Path("results/local/store")
STOCK = "stock Ray Tune + Lightning + MLflow callback"


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of a processor."""

    own: float
    """A trial's own work."""
    whole: float
    """A trial, what is paid once included."""
    further: float
    """A further trial."""
    once: float
    """Wall seconds: the short sweep's, its trials' own work taken off."""


def measure(amounts: Amounts) -> list[Row]:
    """The rows of a sweep's overhead."""
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
    """When the first trial began, by the file that each leaves then."""
    return min(path.stat().st_mtime for path in folder.rglob(mark))


def _first_row(ours: list[float], stock: list[float]) -> Row:
    return compare(
        "the first trial begins, after the command",
        "s by the clock",
        ours,
        stock,
        STOCK,
        Budget(5),
        "everything that its process needs is imported",
    )


def _overheads(plain: list[float], few: list[float], many: list[float], each: int) -> list[Overhead]:
    """Of each round; `each` are the long sweep's trials a processor, the short one's is one."""
    own = median(plain)
    return [
        Overhead(own=own, whole=long / each - own, further=(long - short) / (each - 1) - own, once=short - own)
        for short, long in zip(few, many, strict=True)
    ]


def _rows(ours: list[Overhead], stock: list[Overhead], trials: int) -> list[Row]:
    own = f"a trial's own work is {ours[0].own:.2f} s; {machine_cpus()} processors; {SCALE} scale"
    return [
        compare(
            f"a sweep's overhead, of {trials} trials",
            "s a trial",
            [overhead.whole for overhead in ours],
            [overhead.whole for overhead in stock],
            STOCK,
            Budget(0.5),
            f"with what is paid once; {own}",
        ),
        compare(
            "a sweep's overhead, each further trial",
            "s a trial",
            [overhead.further for overhead in ours],
            [overhead.further for overhead in stock],
            STOCK,
            Budget(0.5),
            own,
        ),
        compare(
            "a sweep's overhead, once",
            "s by the clock",
            [overhead.once for overhead in ours],
            [overhead.once for overhead in stock],
            STOCK,
            note="starting Python, Ray and MLflow; ours also draws tables and figure",
        ),
    ]


def rates(count: int) -> list[float]:
    """A learning rate a trial, so that trials differ in nothing that takes time."""
    return [float(f"{0.002 + 0.00001 * number:.5f}") for number in range(count)]


def _write_sweep(folder: Path, count: int) -> Path:
    """A sweep of our own over those rates."""
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
    """Median seconds of a trial's own work while every processor works on one."""
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

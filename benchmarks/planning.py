"""Planning and resuming a sweep whose trials are all finished: ten thousand trials compared with twelve."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, Budget, Row, alternate, compare, peak_memory, timed_process
from benchmarks.setting import SWEEP, Amounts
from mm1_lab.orchestrate.planning.request import load_request
from mm1_lab.results import HeldOutRow, Ledger, SampleRow, ScoreRow

SCORE = ScoreRow("captions", "captioning", "cider", 0, 0, "0", "caption", 1.0, "a red circle", True)

LINKS = 10_000
"""Trials that share files; ext4 allows 65,000 links to a file."""


def measure(amounts: Amounts) -> list[Row]:
    """Rows for `plan` and `run` when nothing is missing."""
    with TemporaryDirectory() as many, TemporaryDirectory() as few:
        trials = make_finished(Path(many), amounts, amounts.seeds)
        twelve = make_finished(Path(few), amounts, 1)
        sides = {
            (command, unit, folder): partial(_measured, run, command, amounts, seeds, Path(folder))
            for command in ("plan", "run")
            for unit, run in (("s", timed_process), ("MB", peak_memory))
            for folder, seeds in ((many, amounts.seeds), (few, 1))
        }
        found = alternate(sides, amounts.rounds)
        return [
            compare(
                f"{what} of {trials:,} finished trials",
                unit,
                found[command, unit, many],
                found[command, unit, few],
                f"{twelve} finished trials",
                budget,
                "peak memory" * (unit == "MB"),
            )
            for command, what in (("plan", "plan"), ("run", "resume"))
            for unit, budget in (("s", Budget(1.5)), ("MB", Budget(300)))
        ]


def _measured(
    run: Callable[[Sequence[str], Path], float], command: str, amounts: Amounts, seeds: int, folder: Path, number: int
) -> float:
    """Wall seconds or peak memory of `mm1-lab plan` or `run` on the data-mix sweep, with results in `folder`."""
    settings = [part for setting in amounts.settings for part in ("--set", setting)]
    arguments = [command, str(SWEEP), "--scale", amounts.scale, "--seeds", str(seeds), *settings]
    return run([*COMMAND, *arguments], folder)


def make_finished(folder: Path, amounts: Amounts, seeds: int) -> int:
    """Writes minimal results of a finished sweep into `folder`; returns the number of trials."""
    results = folder / "results" / "local"
    ledger = Ledger(results, results / "store")
    request = load_request(
        str(SWEEP), amounts.scale, str(seeds), (), amounts.settings, None, ledger.results, ledger.store
    )
    held_out: list[HeldOutRow] = []
    samples: list[SampleRow] = []
    first, *others = (trial.fingerprint for trial in request.trials)
    ledger.write_scores(first, [SCORE], held_out, samples, {"timings": {}}, None)
    for number, other in enumerate(others):
        if number % LINKS == 0:
            source = shutil.copytree(ledger.trial_folder(first), ledger.trial_folder(other))
        else:  # writing each would take minutes
            shutil.copytree(source, ledger.trial_folder(other), copy_function=os.link)
    request.write_manifest()
    (request.folder / "table.md").write_text("Drawn.\n", encoding="utf-8")
    return len(request.trials)

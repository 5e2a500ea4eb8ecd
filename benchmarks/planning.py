"""Planning and resuming a sweep whose trials are all finished: ten thousand trials compared with twelve, and a hundred
thousand, the most that a command takes, compared with ten thousand."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, Budget, Cost, Row, alternate, compare, process_cost
from benchmarks.setting import SWEEP, Amounts
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.sweeping import draw_changed
from mm1_lab.results import Ledger, ScoreRow

SCORE = ScoreRow("captions", "captioning", "cider", 0, 0, "0", "caption", 1.0, "a red circle", True)

LINKS = 10_000
"""Trials that share files; ext4 allows 65,000 links to a file."""
COMMANDS = {"plan": "plan", "run": "resume"}
"""Each command, and what it does if nothing is missing."""


def measure(amounts: Amounts) -> list[Row]:
    """Rows for `plan` and `run` when nothing is missing."""
    with TemporaryDirectory() as folder:
        places = {seeds: Path(folder) / str(seeds) for seeds in (amounts.most_seeds, amounts.seeds, 1)}
        trials = [make_finished(place, amounts, seeds) for seeds, place in places.items()]
        sides = {
            (command, count): partial(_cost, command, amounts, seeds, places[seeds])
            for command in COMMANDS
            for count, seeds in zip(trials, places, strict=True)
        }
        found = alternate(sides, amounts.rounds)
    return [row for command in COMMANDS for row in _rows(command, trials, found)]


def _rows(command: str, trials: Sequence[int], found: Mapping[tuple[str, int], Sequence[Cost]]) -> Iterator[Row]:
    """The rows of a command; `trials` are the most, many and few."""
    most, many, few = trials
    wall = {count: [cost.wall for cost in found[command, count]] for count in trials}
    memory = {count: [cost.megabytes for cost in found[command, count]] for count in trials}
    names = {count: f"{count:,} finished trials" for count in trials}
    what = f"{COMMANDS[command]} of {names[many]}"
    yield compare(what, "s", wall[many], wall[few], names[few], Budget(1.5))
    yield compare(what, "MB", memory[many], memory[few], names[few], Budget(300), "peak memory")
    what = f"{COMMANDS[command]} of {names[most]}"
    speed = {count: [count / one for one in wall[count]] for count in (most, many)}
    linear = Budget(ratio_at_least=1)  # no more time per trial than with a tenth as many
    note = f"{median(wall[most]):.1f} s in all; as fast per trial as the reference, or faster, is linear growth"
    yield compare(what, "trials / s", speed[most], speed[many], names[many], linear, note)
    yield compare(what, "MB", memory[most], memory[many], names[many], Budget(300), "peak memory")


def _cost(command: str, amounts: Amounts, seeds: int, folder: Path, number: int) -> Cost:
    """Cost of `mm1-lab plan` or `run` on the data-mix sweep, with results in `folder`."""
    settings = [part for setting in amounts.settings for part in ("--set", setting)]
    listed = ",".join(map(str, range(seeds)))  # a count is at most 99
    arguments = [command, str(SWEEP), "--scale", amounts.scale, "--seeds", f"{listed},", *settings]
    return process_cost([*COMMAND, *arguments], folder)


def make_finished(folder: Path, amounts: Amounts, seeds: int) -> int:
    """Writes minimal results of a finished sweep into `folder`; returns the number of trials."""
    results = folder / "results" / "local"
    ledger = Ledger(results, results / "store")
    request = load_request(
        str(SWEEP), amounts.scale, range(seeds), (), amounts.settings, None, ledger.results, ledger.store
    )
    first, *others = (trial.fingerprint for trial in request.trials)
    ledger.write_scores(first, [SCORE], {}, {"timings": {}}, {})
    for number, other in enumerate(others):
        if number % LINKS == 0:
            source = shutil.copytree(ledger.trial_folder(first), ledger.trial_folder(other))
        else:  # writing each would take minutes
            shutil.copytree(source, ledger.trial_folder(other), copy_function=os.link)
    request.write_manifest()
    draw_changed(request, lambda folder: [], {})
    return len(request.trials)

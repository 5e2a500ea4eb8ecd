"""Commands that must be fast: help and drawing."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import COMMAND, REPOSITORY, Budget, Row, alternate, compare, timed_process
from benchmarks.setting import Amounts

RESULTS = (Path("results/study"), Path("results/local"))
"""The first of these folders that contains results is drawn."""


def measure(amounts: Amounts) -> list[Row]:
    """Rows for the help and, if there are results, for drawing."""
    with TemporaryDirectory() as folder:
        rows = [_help(amounts, Path(folder))]
        results = next((path for path in RESULTS if any((REPOSITORY / path).glob("*/*/sweep.json"))), None)
        if results:
            rows.append(_figures(amounts, results, Path(folder)))
        else:
            print("mm1-lab figures: there are no results to draw yet")
        return rows


def _help(amounts: Amounts, folder: Path) -> Row:
    sides = {
        "ours": lambda _: timed_process([*COMMAND, "--help"], folder),
        "bare": lambda _: timed_process([sys.executable, "-c", "pass"], folder),
    }
    times = alternate(sides, 3 * amounts.rounds)
    return compare("mm1-lab --help", "s", times["ours"], times["bare"], "Python doing nothing", Budget(0.5))


def _figures(amounts: Amounts, results: Path, folder: Path) -> Row:
    """Works on a copy, because drawing writes into the folder that it reads."""
    imports = [sys.executable, "-c", "import matplotlib.pyplot, pandas, scipy.stats"]
    copy = folder / "results"
    unread = shutil.ignore_patterns("store", "mlflow*", "mlartifacts", "ray")
    shutil.copytree(REPOSITORY / results, copy, ignore=unread)
    trials = len(list(copy.glob("trials/*/DONE")))
    sides = {
        "ours": lambda _: timed_process([*COMMAND, "figures", "--results", str(copy)], folder),
        "bare": lambda _: timed_process(imports, folder),
    }
    times = alternate(sides, amounts.rounds)
    return compare(
        "mm1-lab figures",
        "s",
        times["ours"],
        times["bare"],
        "importing matplotlib, pandas and scipy",
        Budget(8),
        f"{results}, {trials} trials",
    )

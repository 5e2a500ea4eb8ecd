"""Two commands at once in one results folder: both end, with the results of one after the other."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_place

DATA_MIX = ("data_mix", "--only", "base", "--only", "captions")
CONNECTOR = ("connector", "--only", "c-abstractor 336 144", "--only", "average-pooling 336 144")
"""Shares the base's encoder, decoder and multimodal stage with DATA_MIX."""
QUERY = """select experiments.name, runs.name, status from runs join experiments using (experiment_id)
    where runs.lifecycle_stage = 'active'"""


def of_trials(place: Any) -> dict[str, bytes]:
    return {name: content for name, content in place.tables().items() if name.startswith("trials")}


def runs(place: Any) -> list[tuple[str, str, str]]:
    """(sweep, name, status) of every run in the database, which must be whole.

    Each sweep has its own experiment, with the encoders and decoders of its trials: shared ones stand in both.
    """
    with sqlite3.connect(f"file:{place.results / 'mlflow.db'}?mode=ro", uri=True) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        return database.execute(QUERY).fetchall()


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("second", "warm", "repeats", "how"),
    [
        (DATA_MIX, False, 1, ("--inline",)),
        *[(second, warm, 10, ()) for second in (DATA_MIX, CONNECTOR) for warm in (False, True)],
    ],
)
def test_both_end_with_the_results_of_one_after_the_other(
    second: tuple[str, ...], warm: bool, repeats: int, how: tuple[str, ...], place: Any, finished: Any, tmp_path: Path
) -> None:
    """`warm`: weights and the database are there already, scores are not."""
    alone = of_trials(finished)
    if second == CONNECTOR:
        other = make_place(tmp_path / "alone")
        other.run("run", *CONNECTOR, "--scale", "smoke", "--inline")
        alone |= of_trials(other)
    for _ in range(repeats):
        if warm:
            shutil.copytree(finished.results, place.results, dirs_exist_ok=True)
            shutil.rmtree(place.results / "trials")
        before = place.done()
        drivers = [place.start("run", *sweep, "--scale", "smoke", *how) for sweep in (DATA_MIX, second)]
        for driver in drivers:
            output, _ = driver.communicate()
            assert driver.returncode == 0, output
            assert "Traceback" not in output
        assert before.items() <= place.done().items(), "something finished ran again"
        assert of_trials(place) == alone
        named = runs(place)
        assert {status for _, _, status in named} == {"FINISHED"}
        assert {sweep for sweep, _, _ in named} == {DATA_MIX[0], second[0]}
        assert len(set(named)) == len(named), "a run stands twice"
        shutil.rmtree(place.results)

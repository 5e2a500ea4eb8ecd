"""Longer checks that only `make soak` runs: whole sweeps (compiled models are in test_lab.py)."""

import re
import shutil
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SWEEPS = sorted(path.stem for path in (REPOSITORY / "sweeps").glob("*.yaml"))

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_every_sweep_runs_through_and_all_are_drawn_together(place: Any) -> None:
    shutil.copytree(REPOSITORY / "sweeps", place.folder / "sweeps", dirs_exist_ok=True)  # whole, as lessons need them
    for sweep in SWEEPS:
        output = place.run("run", sweep, "--scale", "smoke", fresh=True)  # with its figures
        assert not re.search("^failed ", output, re.MULTILINE), output
        assert (place.results / "smoke" / sweep / "trials.csv").exists()
    place.run("report", fresh=True)  # it adds the verdicts of lessons
    before, tables = place.done(), place.tables()
    for sweep in reversed(SWEEPS):
        place.run("run", sweep, "--scale", "smoke")  # nothing is done again
    place.run("report", fresh=True)
    assert place.done() == before and place.tables() == tables
    lessons = (place.results / "smoke" / "lessons.md").read_text(encoding="utf-8")
    assert "not run" not in lessons
    page = (place.results / "report.html").read_text(encoding="utf-8")
    assert all(f"mm1-lab run {sweep} " in page for sweep in SWEEPS)


def test_a_growing_sweep_is_looked_at_and_goes_on_where_it_was_stopped(place: Any) -> None:
    two = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions", "--until-decided")
    output = place.run(*two, "--seeds", "3", "--looks", "2,3", "--inline")
    assert "After 2 of at most 3 seeds:" in output and "After 3 of at most 3 seeds:" in output
    assert "no verdicts: smoke scale" in output
    before = place.done()
    assert "nothing ran" in place.run(*two, "--seeds", "3", "--looks", "2,3") and place.done() == before
    assert "looks were fixed at" in place.run(*two, "--seeds", "3", "--looks", "3", code=2)

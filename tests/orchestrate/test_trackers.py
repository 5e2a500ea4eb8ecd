"""Trackers beside MLflow: a stand-in that keeps what it is told."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mm1_lab.orchestrate.tracking.trackers import Tracker
from mm1_lab.results import Ledger
from tests.conftest import Place


def tracker(
    again: Place, monkeypatch: pytest.MonkeyPatch, name: str = "trackio", **functions: Any
) -> tuple[Tracker, list[Any]]:
    """With a module that keeps its calls."""
    calls = []
    module = SimpleNamespace(
        init=lambda **given: calls.append(given),
        log=lambda metrics, step: calls.append((step, metrics)),
        finish=lambda: calls.append("finish"),
    )
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    return Tracker(name, again.results / "smoke" / "data_mix", Ledger(again.results)), calls


def test_a_trial_is_logged_once_under_mlflow_s_names(again, monkeypatch):
    made, calls = tracker(again, monkeypatch)
    made.catch_up()
    first, *points = calls[: calls.index("finish")]
    assert (first["project"], first["name"], first["group"]) == (
        "data_mix", "base / seed 0 at smoke", "data_mix at smoke",
    )  # fmt: skip
    assert first["config"]["connector"] == "c-abstractor" and first["config"]["arm"] == "base"
    assert (first["config"]["image_tokens"], first["config"]["steps"]) == (9, 6), "numbers"
    assert "0-shot" in points[0][1] and "held-out/captions" in points[0][1] and points[0][0] == 0
    steps = [step for step, _ in points]
    assert steps == sorted(set(steps)) and {"train/loss", "train/gradient_norm"} <= set(points[-1][1])
    assert calls.count("finish") == 2, "two arms"
    made.catch_up()
    assert calls.count("finish") == 2


def test_a_tracker_that_is_away_stops_nothing_and_what_was_cut_is_continued(again, monkeypatch, capsys):
    def away(**given: Any) -> None:
        raise ConnectionError("no route to host")

    ids = []
    for functions in ({"init": away}, {"finish": away}, {}):
        made, calls = tracker(again, monkeypatch, "wandb", **functions)
        made.catch_up()
        starts = [call for call in calls if isinstance(call, dict)]
        assert all(start["resume"] == "allow" for start in starts)
        ids.append([start["id"] for start in starts])
    assert len(set(ids[2])) == 2 and ids[:2] == [[], ids[2][:1]]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "the sweep goes on, the next command with --tracker wandb catches up" in told[0]
    assert "no route to host" in told[0]


def test_a_module_of_one_s_own(again, monkeypatch, told):
    _, calls = tracker(again, monkeypatch, "mine")
    monkeypatch.chdir(again.folder)
    told("run", "data_mix", "--scale", "smoke", "--inline", "--only", "base", "--tracker", "mine")
    assert "finish" in calls


@pytest.mark.parametrize("name", ["wandb", "mlflow", "./mine.py", "", "broken"])
def test_what_is_no_tracker_is_refused_before_anything_runs(name, monkeypatch, refused, tmp_path):
    """Not installed, another module, a path, nothing, a module of one's own that raises."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused("run", "data_mix", "--scale", "smoke", "--tracker", name)
    assert error.startswith(f"mm1-lab: --tracker {name}: is no module with `init`, `log` and `finish` (")
    assert "; install it" in error

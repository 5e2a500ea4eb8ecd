"""`mm1-lab check-scale` as a user types it, at smoke scale: nothing is learnt, so only what is about data passes."""

import csv
import re
import shutil
from typing import Any

import pytest

from mm1_lab.cli import main
from mm1_lab.train import probe

SMALL = ("--samples", "500", "--set", "evaluate.questions=8", "--set", "evaluate.shots=[0, 4]")


@pytest.mark.slow
def test_what_is_missing_is_computed_then_every_gate_is_measured(
    finished: Any, place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(probe, "TRAINING_SCENES", 300)
    monkeypatch.setattr(probe, "TEST_SCENES", 100)
    shutil.copytree(finished.results, place.results)
    assert main(["check-scale", "smoke", "--inline", *SMALL]) == 1
    output = capsys.readouterr().out
    assert "1 encoders and decoders are trained first" in output, "the encoder at the lower resolution"
    assert len(set(place.done()) - set(finished.done())) == 1
    (folder,) = (place.results / "smoke").glob("check_scale*")
    with (folder / "gates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_gate: dict[str, set[str]] = {}
    for row in rows:
        by_gate.setdefault(row["gate"], set()).add(row["verdict"])
        assert row["what"] in output
    assert by_gate["prompts fit"] == {"pass"} and "no leaks" in by_gate
    assert by_gate["told in words"] == {"floor", "fail"}, "kinds of question are floor, text-core fails"
    probes = [row["what"] for row in rows if row["verdict"] == "reported"]
    attributes = ("colour", "shape", "letter", "size", "place", "count")
    assert probes == [f"{attribute} at 224 (24 pixels)" for attribute in attributes]
    markdown = (folder / "gates.md").read_text(encoding="utf-8")
    assert "Floor, no result at this scale: colour, shape," in markdown
    assert "No seed has finished trials of both base and blind" in output


def test_one_gate_alone_needs_no_weights_and_writes_nothing(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    assert main(["check-scale", "smoke", "--only", "prompts"]) == 0
    assert capsys.readouterr().out.count("pass") == 9
    assert main(["check-scale", "smoke", "--only", "prompts", "--set", "evaluate.shots=[0, 16]"]) == 1
    assert re.search("≤ 256 +fail", capsys.readouterr().out)
    assert not list(place.results.glob("store/*/DONE")) and not list(place.results.glob("smoke/*"))
    assert main(["check-scale", "smoke", "--only", "prompt"]) == 2
    assert "there is no gate 'prompt'; did you mean 'prompts'" in capsys.readouterr().err

"""Shipped parts with the real command: what starts from them is what starts from parts computed anew."""

from pathlib import Path
from typing import Any

import pytest

from mm1_lab.cli import main

BASE = ("data_mix", "--scale", "smoke", "--only", "base")


@pytest.mark.slow
def test_parts_give_the_weights_and_scores_that_computing_them_gives(
    finished: Any, place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    store = finished.results / "store"
    assert main(["ship-parts", *BASE, "--store", str(store)]) == 0
    shipped = capsys.readouterr().out
    assert "encoder / seed 0" in shipped and "decoder / seed 0" in shipped
    assert "0.2 MB in all" in shipped
    parts = {path.name: path for path in (place.folder / "results" / "parts").iterdir()}

    # with the parts, only the model is trained, and its scores are those of a place that had no parts
    output = place.run("run", *BASE, "--inline")
    assert "1 task, 0 of 1 trial done before" in output
    stored = {Path(folder).name for folder in place.done() if folder.startswith("store")}
    assert len(stored) == 1 and not stored & set(parts)
    (model,) = stored
    assert (place.results / "store" / model / "model.safetensors").read_bytes() == (
        store / model / "model.safetensors"
    ).read_bytes()
    (trial,) = (place.results / "trials").iterdir()
    for name in ("scores.parquet", "held_out.csv", "training.csv"):
        assert (trial / name).read_bytes() == (finished.results / "trials" / trial.name / name).read_bytes()

    assert main(["plan", *BASE, "--results", "fresh", "--store", "fresh/store"]) == 0
    assert capsys.readouterr().out.count("shipped with the repository") == 2


def test_a_damaged_part_gets_one_line_and_is_planned_anew(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ship-parts", *BASE, "--store", str(finished.results / "store")]) == 0
    model = next(Path("results/parts").glob("*/model.safetensors"))
    model.write_bytes(model.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["plan", *BASE]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and str(model.parent) in captured.err and "is not used" in captured.err
    assert "3 stages to run" in captured.out

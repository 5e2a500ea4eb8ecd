"""Shipped parts with the real commands: what starts from them is what starts from parts computed anew."""

import shutil
from pathlib import Path

import pytest

from mm1_lab.cli import main

BASE = ("data_mix", "--scale", "smoke", "--only", "base")


def ship(store: Path, folder: Path) -> set[str]:
    """Copies the stages that have no inputs."""
    parts = [path.parent for path in store.glob("*/stage.json") if '"kind": "multimodal"' not in path.read_text()]
    for part in parts:
        shutil.copytree(part, folder / "results" / "parts" / part.name)
    return {part.name for part in parts}


@pytest.mark.usefixtures("unrendered")
def test_parts_give_the_weights_and_scores_that_computing_them_gives(finished, place, told, monkeypatch):
    monkeypatch.chdir(place.folder)
    parts = ship(finished.results / "store", place.folder)

    # with the parts, only the model is trained, and its scores are those of a place that had no parts
    output = told("run", *BASE, "--inline")
    assert "1 task, 0 of 1 trial done before\n" in output
    (model,) = (Path(folder).name for folder in place.done() if folder.startswith("store"))
    assert model not in parts
    weights = Path("store") / model / "model.safetensors"
    assert (place.results / weights).read_bytes() == (finished.results / weights).read_bytes()
    (trial,) = (place.results / "trials").iterdir()
    for name in ("scores.parquet", "held_out.csv", "training.csv"):
        assert (trial / name).read_bytes() == (finished.results / "trials" / trial.name / name).read_bytes()
    fresh = told("plan", *BASE, "--results", "fresh", "--store", "fresh/store")
    assert fresh.count("shipped with the repository") == 2


def test_a_damaged_part_gets_one_line_and_is_planned_anew(finished, here, capsys):
    ship(finished.results / "store", here)
    model = next(Path("results/parts").glob("*/model.safetensors"))
    model.write_bytes(model.read_bytes()[:-1])
    assert main(["plan", *BASE]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and str(model.parent) in captured.err and "is not used" in captured.err
    assert "3 stages to run" in captured.out

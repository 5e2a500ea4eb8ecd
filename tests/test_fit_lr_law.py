"""The learning-rate law as a user asks for it, at smoke scale."""

import json
import shutil

import pytest
from PIL import Image

from mm1_lab.results.manifest import read_manifest, read_trials
from tests.conftest import Place, Told, ask_without_demonstrations, change

COMMAND = ("fit-lr-law", "--share", "--scale", "smoke", "--sizes", "9M,85M,302M")


@pytest.mark.usefixtures("few_documents", "unrendered")
def test_from_nothing_to_a_figure_and_again(place: Place, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    change(place.folder / "sweeps" / "lr_law.yaml", "rates: 5", "rates: 2")
    change(place.folder / "sweeps" / "lr_law.yaml", "extensions: 3", "extensions: 0")
    scale = place.folder / "sweeps" / "scales" / "smoke.yaml"
    ask_without_demonstrations(place.folder)
    for steps in ("encoder: {steps: 4", "  steps: 8", "train: {steps: 6"):
        change(scale, steps, f"{steps[:-1]}2")
    assert "Time is up, with " in told(*COMMAND, "--minutes", "0.001")
    output = told(*COMMAND)
    folder = place.results / "smoke" / "lr_law"
    names = {"scores.csv", "points.csv", "optima.csv", "law.json", "figure.png", "table.md", "sweep.json", "trials.csv"}
    assert {path.name for path in folder.glob("[!.]*")} == names
    with Image.open(folder / "figure.png") as figure:
        assert len(figure.getcolors() or ()) == 1, "drawn, though `unrendered`"
    assert "# Learning-rate law: scale smoke" in output
    values = json.loads((folder / "law.json").read_text(encoding="utf-8"))
    assert {fit["objective"] for fit in values["fits"]} == {"0-shot average", "held-out loss"}
    assert (values["fits"][0]["coefficients"] is None) == ("**No law**" in output.split("## By")[1])

    before, first = place.done(), (folder / "points.csv").read_bytes()
    output = told(*COMMAND, "--predict", "30B")
    assert "nothing ran" in output and place.done() == before
    assert "# Learning-rate law: scale smoke" in output, "with what is predicted now"
    assert (folder / "points.csv").read_bytes() == first
    for words in ((), ("lr_law", "--scale", "smoke")):
        assert "6 done, 0 missing, 0 failed" in told("status", *words), "other sizes were not asked for"

    first, *_ = read_trials(folder)
    shutil.rmtree(place.results / "trials" / first.fingerprint)
    command = read_manifest(folder).command()
    assert f"; run it first: {command}\n" in told("answers", "lr_law", first.arm, "--scale", "smoke", code=2)
    assert "5 of 6 trials done before" in told(*command.split()[1:], "--share"), "and no further sizes"

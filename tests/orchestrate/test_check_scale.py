"""`mm1-lab check-scale` as a user types it, at smoke scale: nothing is learnt, so only what is about data passes."""

import csv
import re
import shutil
from typing import Any

import pytest
import torch

from mm1_lab import team
from mm1_lab.cli import main
from mm1_lab.config import Check
from mm1_lab.evaluate import attribute_probe, gates, pixel_reader

SMALL = ("--samples", "500", "--set", "evaluate.questions=8", "--set", "evaluate.shots=[0, 4]")


@pytest.mark.slow
def test_what_is_missing_is_computed_then_every_gate_is_measured(
    finished: Any, place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(attribute_probe, "TRAINING_SCENES", 300)
    monkeypatch.setattr(attribute_probe, "TEST_SCENES", 100)
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 200)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 50)
    shutil.copytree(finished.results, place.results)
    (stage,) = [path for path in place.results.glob("store/*/stage.json") if '"kind": "encoder"' in path.read_text()]
    shutil.rmtree(stage.parent)
    assert main(["check-scale", "smoke", "--inline", *SMALL]) == 1
    output = capsys.readouterr().out
    assert "trained first: 1 encoder\n" in output and set(place.done()) == set(finished.done())
    (folder,) = (place.results / "smoke").glob("check_scale*")
    with (folder / "gates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_gate: dict[str, set[str]] = {}
    for row in rows:
        by_gate.setdefault(row["check"], set()).add(row["verdict"])
        assert row["what"] in output
    assert by_gate["prompts fit"] == {"pass"} and "no leaks" in by_gate
    assert by_gate["told in words"] == {"fail"}
    probe = [row for row in rows if row["check"] == "linear probe"]
    attributes = ["colour", "shape", "letter", "size", "place", "identity"]
    attributes += [f"identity, size quarter {number}" for number in (1, 2, 3, 4)]
    assert [row["what"] for row in probe[:10]] == [f"{attribute} at 336 (36 pixels)" for attribute in attributes]
    assert any(row["what"] == "identity in 9 − 4 averaged cells, points" for row in rows)
    assert any(row["what"] == "names, 336 − 224, points" for row in rows)
    assert "No seed has finished trials of both base and blind" in output

    table = (folder / "gates.csv").read_text(encoding="utf-8")
    words = [row["what"] for row in rows if row["check"] == "told in words"]
    met = next(line for line in table.splitlines() if words[0] in line)
    (folder / "gates.csv").write_text(table.replace(met, met.replace(",fail,", ",pass,")), encoding="utf-8")
    assert main(["check-scale", "smoke", "--inline", "--only", "prompts", *SMALL]) == 0
    page = (folder / "gates.md").read_text(encoding="utf-8")
    assert words[0] not in page and words[1] in page and f"the other 1 of {len(words)} settings" in page


def test_one_gate_alone_needs_no_weights(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(team, "_gpu_allowed", True)
    assert main(["check-scale", "smoke", "--only", "prompts"]) == 0
    assert capsys.readouterr().out.count("pass") == 9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert team.device().type == "cpu", "a scale without GPUs is checked where it is trained"
    assert main(["check-scale", "smoke", "--only", "prompts", "--set", "evaluate.shots=[0, 16]"]) == 1
    assert re.search("≤ 256 +fail", capsys.readouterr().out)
    few = ["check-scale", "smoke", "--only", "prompts", "--set", "evaluate.questions=8"]
    assert main(few) == 0 and main([*few, "--seeds", "5"]) == 1, "the prompts of seed 4 are longer"
    capsys.readouterr()
    assert main(["check-scale", "smoke", "--inline", "--set", "evaluate.shots=[0, 16]"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"16 shots of '\w+' in .* do not fit a row of 256 tokens; --set fewer evaluate.shots", error)
    assert error.count("\n") == 1
    assert main(["check-scale", "smoke", "--only", "prompts,validity"]) == 0, "as for the arms of other commands"
    assert "base and blind; run: mm1-lab run validity --scale smoke --seeds 5\n" in capsys.readouterr().out
    assert main(["check-scale", "smoke", "--only", "validity", "--seeds", "3-4"]) == 0
    assert "run: mm1-lab run validity --scale smoke --seeds 3-4\n" in capsys.readouterr().out
    assert not list(place.results.glob("store/*/DONE"))
    assert main(["check-scale", "smoke", "--only", "prompt"]) == 2
    assert "there is no gate 'prompt'; did you mean 'prompts'" in capsys.readouterr().err


def test_scales_of_few_settings_are_asked_what_they_have(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    scales = place.folder / "sweeps" / "scales"
    text = (scales / "smoke.yaml").read_text(encoding="utf-8")
    few = {"resolutions": "{378: 42}", "image_tokens": "{144: 9}"}
    for key, values in few.items():
        text = re.sub(f"^{key}: .*$", f"{key}: {values}", text, flags=re.MULTILINE)
    (scales / "own.yaml").write_text(text, encoding="utf-8")
    ask = ["check-scale", "own", "--inline", "--set", "resolution=378", "--only"]
    assert main([*ask, "reader"]) == 2
    assert "reader measure nothing at the resolutions of own" in capsys.readouterr().err
    monkeypatch.setattr(gates, "probes", lambda *given: [Check.within("linear probe", "colour", 95.0, 90.0)])
    assert main([*ask, "probe"]) == 0, "no probe of tokens averaged to as many"


def test_what_checks_measured_apart_stands_together_and_what_is_missing_is_named(
    place: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    assert main(["check-scale", "smoke", "--only", "leaks", "--samples", "500"]) == 0
    folder = place.results / "smoke" / "check_scale"
    text = (folder / "gates.md").read_text(encoding="utf-8")
    assert "The development seed 0, on which the world and its recipes were tuned." in text
    assert main(["check-scale", "smoke", "--only", "prompts", "--seeds", "100,"]) == 0
    table = folder / "gates.csv"
    with table.open(encoding="utf-8", newline="") as file:
        first, *rows = list(csv.DictReader(file))
    assert first["check"] == "prompts fit" and {row["check"] for row in rows} == {"prompts fit", "no leaks"}
    text = (folder / "gates.md").read_text(encoding="utf-8")
    assert "development" not in text

    written = table.read_text(encoding="utf-8")
    table.write_text(written.replace(first["setup"], "of an earlier world"), encoding="utf-8")
    assert main(["check-scale", "smoke", "--only", "prompts"]) == 0
    assert "no leaks" not in table.read_text(encoding="utf-8"), "measured of something else"
    table.write_text(written.replace("prompts fit,,", "prompts fit,first,"), encoding="utf-8")
    assert main(["check-scale", "smoke", "--only", "prompts"]) == 2
    assert "gates.csv: cannot be read" in capsys.readouterr().err


def test_two_checks_at_once_keep_what_both_measure(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    prompts = gates.prompts_fit

    def after_another(*given: Any) -> Any:
        assert main(["check-scale", "smoke", "--only", "leaks", "--samples", "500"]) == 0
        return prompts(*given)

    monkeypatch.setattr(gates, "prompts_fit", after_another)
    assert main(["check-scale", "smoke", "--only", "prompts"]) == 0
    with (place.results / "smoke" / "check_scale" / "gates.csv").open(encoding="utf-8", newline="") as file:
        assert {row["check"] for row in csv.DictReader(file)} == {"prompts fit", "no leaks"}

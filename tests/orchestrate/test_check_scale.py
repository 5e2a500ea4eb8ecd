"""`mm1-lab check-scale` as a user types it, at smoke scale: nothing is learnt, so only what is about data passes."""

import csv
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mm1_lab import team
from mm1_lab.commands import scales
from mm1_lab.config import Check
from mm1_lab.evaluate import attribute_probe, gates, pixel_reader
from tests.conftest import Place, Told, change

PROMPTS = ("smoke", "--only", "prompts")
LEAKS = ("smoke", "--only", "leaks", "--samples", "500")


@pytest.fixture
def check(place, monkeypatch, told) -> Told:
    """Gives what the command prints."""
    monkeypatch.chdir(place.folder)
    return partial(told, "check-scale")


def folder_of(place: Place) -> Path:
    (folder,) = (place.results / "smoke").glob("check_scale*")
    return folder


def gates_of(place: Place) -> list[dict[str, str]]:
    with (folder_of(place) / "gates.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_what_is_missing_is_computed_then_every_gate_is_measured(finished, place, check, monkeypatch):
    monkeypatch.setattr(attribute_probe, "TRAINING_SCENES", 200)
    monkeypatch.setattr(attribute_probe, "TEST_SCENES", 60)
    monkeypatch.setattr(pixel_reader, "TRAINING_PICTURES", 100)
    monkeypatch.setattr(pixel_reader, "TEST_PICTURES", 30)
    shutil.copytree(finished.results, place.results, dirs_exist_ok=True)
    (stage,) = [path for path in place.results.glob("store/*/stage.json") if '"kind": "encoder"' in path.read_text()]
    shutil.rmtree(stage.parent)
    small = ("--samples", "500", "--set", "evaluate.questions=8", "--set", "evaluate.shots=[0, 4]")
    output = check("smoke", "--inline", *small, code=1)
    assert "trained first: 1 encoder\n" in output and set(place.done()) == set(finished.done())
    rows = gates_of(place)
    by_gate = {}
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

    folder = folder_of(place)
    table = (folder / "gates.csv").read_text(encoding="utf-8")
    words = [row["what"] for row in rows if row["check"] == "told in words"]
    met = next(line for line in table.splitlines() if words[0] in line)
    (folder / "gates.csv").write_text(table.replace(met, met.replace(",fail,", ",pass,")), encoding="utf-8")
    check(*PROMPTS, "--inline", *small)
    page = (folder / "gates.md").read_text(encoding="utf-8")
    assert words[0] not in page and words[1] in page and f"the other 1 of {len(words)} settings" in page


def test_one_gate_alone_needs_no_weights(place, check, monkeypatch):
    monkeypatch.setattr(team, "_gpu_allowed", True)
    assert check(*PROMPTS).count("pass") == 9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert team.device().type == "cpu", "a scale without GPUs is checked where it is trained"
    many = ("--set", "evaluate.shots=[0, 16]")
    assert re.search("≤ 256 +fail", check(*PROMPTS, *many, code=1))
    few = (*PROMPTS, "--set", "evaluate.questions=8")
    check(*few)
    check(*few, "--seeds", "5", code=1)  # the prompts of seed 4 are longer
    error = check("smoke", "--inline", *many, code=2)
    assert re.search(r"16 shots of '\w+' in .* do not fit a row of 256 tokens; --set fewer evaluate.shots", error)
    told = check("smoke", "--only", "prompts,validity")
    assert "base and blind; run: mm1-lab run validity --scale smoke --only base,blind --seeds 5\n" in told, (
        "as for arms elsewhere"
    )
    told = check("smoke", "--only", "validity", "--seeds", "3-4", code=1)
    assert "run: mm1-lab run validity --scale smoke --only base,blind --seeds 3-4\n" in told
    passed = Check.within("order of the data", "", 1.0, most=2)
    with monkeypatch.context() as there:
        there.setattr(scales, "_judge", lambda _, sweeps, *rest: [passed] if sweeps == ("controls",) else [])
        told = check("smoke", "--only", "validity", code=1)
    assert "No seed has finished trials" in told, "another order alone says nothing of the base"
    told = check("mini", "--only", "validity", code=1)  # three of its rules fail
    assert re.search(r"nothing to judge; judging \S+/results/study/mini/data_mix instead\n", told)
    assert "Validity of the base: data_mix, scale mini" in told and re.search(r"\ncost +seconds .* reported", told)
    assert "Validity of the base: controls, scale mini" in told and "\norder of the data" in told
    assert not list(place.results.glob("store/*/DONE"))
    assert "there is no gate 'prompt'; did you mean 'prompts'" in check("smoke", "--only", "words, prompt", code=2)


def test_scales_of_few_settings_are_asked_what_they_have(place, check, monkeypatch):
    scales = place.folder / "sweeps" / "scales"
    text = (scales / "smoke.yaml").read_text(encoding="utf-8")
    few = {"resolutions": "{378: 42}", "image_tokens": "{144: 9}"}
    for key, values in few.items():
        text = re.sub(f"^{key}: .*$", f"{key}: {values}", text, flags=re.MULTILINE)
    (scales / "own.yaml").write_text(text, encoding="utf-8")
    ask = ("own", "--inline", "--set", "resolution=378", "--only")
    assert "reader measure nothing at the resolutions of own" in check(*ask, "reader", code=2)
    monkeypatch.setattr(gates, "probes", lambda *given: [Check.within("linear probe", "colour", 95.0, 90.0)])
    check(*ask, "probe")  # no probe of tokens averaged to as many


def test_what_checks_measured_apart_stands_together_and_what_is_missing_is_named(place, check, monkeypatch):
    check(*LEAKS)
    folder = folder_of(place)
    text = (folder / "gates.md").read_text(encoding="utf-8")
    assert "The development seed 0, on which the world and its recipes were tuned." in text
    (folder / "gates.csv").unlink()
    prompts = gates.prompts_fit

    def after_another(*given: Any) -> Any:
        check(*LEAKS)
        return prompts(*given)

    with monkeypatch.context() as patch:
        patch.setattr(gates, "prompts_fit", after_another)
        check(*PROMPTS, "--seeds", "100,")
    first, *rows = gates_of(place)
    assert first["check"] == "prompts fit" and {row["check"] for row in rows} == {"prompts fit", "no leaks"}
    assert "development" not in (folder / "gates.md").read_text(encoding="utf-8")

    table = folder / "gates.csv"
    written = table.read_text(encoding="utf-8")
    table.write_text(written.replace(first["setup"], "of an earlier world"), encoding="utf-8")
    check(*PROMPTS)
    assert "no leaks" not in table.read_text(encoding="utf-8"), "measured of something else"
    table.write_text(written.replace("prompts fit,,", "prompts fit,first,"), encoding="utf-8")
    assert "gates.csv: cannot be read" in check(*PROMPTS, code=2)
    table.write_text(written, encoding="utf-8")
    change(place.folder / "sweeps" / "scales" / "smoke.yaml", "448: 48", "448: 54")
    check(*PROMPTS)
    assert "no leaks" not in table.read_text(encoding="utf-8"), "measured at other resolutions"


def test_what_was_measured_before_an_interruption_is_kept(place, check, monkeypatch):
    def stop(*given: object) -> Iterator[Check]:
        yield Check.within("no leaks", "one stream", 0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(gates, "no_leaks", stop)
    check("smoke", "--only", "prompts,leaks", code=130)
    assert {row["check"] for row in gates_of(place)} == {"prompts fit"}

"""Sizes as people write them, and `learning_rate: law`."""

import json
import math
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import PAPER_LAW, RequestError, parse_count, read_law, short_count
from mm1_lab.orchestrate.planning.finding import find_law
from mm1_lab.orchestrate.planning.request import Request, load_request
from mm1_lab.results import Ledger

SWEEPS = Path(__file__).parents[2] / "sweeps"


def test_sizes_are_read_and_written() -> None:
    sizes = {"9M": 9e6, "302m": 302e6, "1200000000": 1.2e9, "3e10": 3e10, " .5k ": 500, "2T": 2e12}
    assert [parse_count(text) for text in sizes] == pytest.approx(list(sizes.values()))
    found = [short_count(value) for value in (512, 9_437_184, 999_999, 1.2e9, 2e12)]
    assert found == ["512", "9.44M", "1M", "1.2B", "2T"]
    for text in ("", "M", "9MB", "-9M", "0", "nine", "1,2B", "1e999", "nan"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_count(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a sweep that asks for the law."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.yaml").write_text((SWEEPS / "recipes" / "base.yaml").read_text(encoding="utf-8"))
    arms = "arms:\n  a: {learning_rate: law}\n  b: {learning_rate: law, decoder: 302M}\n  c: {learning_rate: paper}\n"
    head = "title: T\nreproduces: Fig. 5\naxis: decoder\nrecipe: base\n"
    (tmp_path / "question.yaml").write_text(head + arms, encoding="utf-8")
    return tmp_path


def ask(*overrides: str, data: Path | None = None) -> Request:
    return load_request("question.yaml", "smoke", "1", (), overrides, data, Path("results"), Path("store"))


def write_law(values: object, variant: str = "lr_law", results: Path = Path("results")) -> Path:
    path = results / "smoke" / variant / "law.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_recipe_that_follows_the_law_resolves_to_its_number(folder: Path) -> None:
    write_law({"coefficients": {"ln N": -0.31, "constant": -1.234}, "why": None})
    request = ask()
    trials = {trial.arm: trial for trial in request.trials}
    for arm, parameters in (("a", 12 * 24**2), ("b", 12 * 2 * 24**2)):
        expected = float(f"{math.exp(-0.31 * math.log(parameters) - 1.234):.3g}")
        assert trials[arm].evaluation.model.training.learning_rate == expected
        assert trials[arm].recipe.learning_rate == expected
    assert trials["c"].evaluation.model.training.learning_rate == PAPER_LAW.rate(12 * 24**2)
    before = trials["a"].fingerprint
    write_law({"coefficients": {"ln N": -0.31, "constant": -1.5}, "why": None})
    assert {trial.arm: trial for trial in ask().trials}["a"].fingerprint != before


def test_the_law_is_that_of_the_same_settings_and_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {"coefficients": {"ln N": 0.0, "constant": math.log(0.002)}, "why": None}
    monkeypatch.setattr("mm1_lab.orchestrate.planning.finding.STUDY", folder / "study")
    write_law(flat, results=folder / "study")
    assert ask().trials[0].recipe.learning_rate == 0.002, "the committed one, where the results have none"
    write_law(flat | {"coefficients": {"ln N": 0.0, "constant": math.log(0.003)}})
    assert ask().trials[0].recipe.learning_rate == 0.003
    command = ["plan", "question.yaml", "--scale", "smoke", "--results", "results"]
    assert main([*command, "--set", "train.steps=9"]) == 2
    error = capsys.readouterr().err
    assert "lr_law,train.steps=9/law.json" in error
    assert "mm1-lab fit-lr-law --scale smoke --set train.steps=9" in error
    with pytest.raises(
        RequestError, match=r"lr_law,data=mine-0123.*mm1-lab fit-lr-law --scale smoke --data mine\.yaml"
    ):
        find_law(Ledger(Path("results"), Path("store")), "smoke", (), Path("mine.yaml"), "mine-0123")
    write_law(flat | {"coefficients": {"ln N": 0.0, "constant": math.log(0.004)}}, "lr_law,train.steps=9")
    assert ask("train.steps=9").trials[0].recipe.learning_rate == 0.004


def test_without_a_law_it_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "question.yaml", "--scale", "smoke", "--results", "results"]) == 2
    error = capsys.readouterr().err
    assert "law.json" in error and "mm1-lab fit-lr-law" in error
    path = write_law({"coefficients": None, "why": "1 bracketed size"})
    with pytest.raises(RequestError, match="1 bracketed size"):
        ask()
    for broken in ([], {}, {"coefficients": {"ln N": -0.4, "ln D": 0.3}}, "text"):
        with pytest.raises(RequestError, match=r"law\.json"):
            read_law(write_law(broken))
    for text in ("{", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=r"law\.json"):
            ask()

"""Runs from a user's file: what is read, reported and refused; and what a fit leaves behind."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.law.runs import read_runs
from mm1_lab.cli import main
from tests.analysis.lr_sweeps import CONSTANT, SIZES, SLOPE, exact_rows, true_log_rate, write_csv
from tests.conftest import Refused

RATES = (1e-4, 3e-4, 1e-3)
WITH_SEED = "params,learning_rate,score,seed"


pytestmark = pytest.mark.usefixtures("here")


def fit(*options: str, code: int = 0) -> None:
    assert main(["fit-lr-law", "--from", "results.csv", *options]) == code


def law() -> dict[str, object]:
    (path,) = Path("results/local/lr_law").glob("results-*/law.json")
    values: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))["fits"][0]
    return values


def optima() -> pd.DataFrame:
    (path,) = Path("results/local/lr_law").glob("results-*/optima.csv")
    return pd.read_csv(path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and other tests draw."""
    monkeypatch.setattr("analysis.output.Output.figure", lambda *given: None)


def grid(sizes: tuple[float, ...] = SIZES) -> list[list[object]]:
    return [[n, rate, 1.0] for n in sizes for rate in RATES]


def test_a_file_of_exact_points_gives_eq_1_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), exact_rows())
    fit("--predict", "30B,7B")
    values = law()
    assert values["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert values["n"] == 4 and values["objective"] == "score"
    output = capsys.readouterr().out
    assert "η = exp(−0.4214 ln N − 0.5535)" in output and "30B: η = 2.21e−05" in output and "- 7B: η = " in output
    rows = optima()
    assert list(rows["optimum"]) == pytest.approx([math.exp(true_log_rate(n)) for n in SIZES], rel=1e-5)
    assert list(rows["left_out_prediction"]) == pytest.approx(list(rows["optimum"]), rel=1e-4)


def test_a_spreadsheets_separators_and_spellings_of_a_seed_are_read() -> None:
    for separator in (";", "\t"):
        lines = [separator.join(map(str, row)) for row in [("params", "learning_rate", "score"), *exact_rows()]]
        Path("results.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
        assert len(read_runs(Path("results.csv"), False).points) == len(exact_rows())
    rows = [(n, rate, score, ("1", "1 ", "1.0")[place % 3]) for place, (n, rate, score) in enumerate(exact_rows())]
    write_csv(Path("results.csv"), rows, WITH_SEED)
    assert set(read_runs(Path("results.csv"), False).points["seed"]) == {0}


def test_sizes_alike_to_three_digits_are_fitted_apart(undrawn: None) -> None:
    write_csv(Path("results.csv"), exact_rows((1_230_000, 1_234_000, 5_000_000, 20_000_000)))
    fit()
    assert law()["n"] == 4
    rows = optima()
    assert list(rows["left_out_prediction"]) == pytest.approx(list(rows["optimum"]), rel=1e-4)


def test_losses_are_turned_round(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), [(n, rate, -score) for n, rate, score in exact_rows()])
    fit("--lower-is-better")
    fit(code=2)
    assert "only if the best score is the lowest, as of a loss; add --lower-is-better" in capsys.readouterr().err
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6), "not overwritten"
    write_csv(Path("results.csv"), exact_rows())
    fit("--lower-is-better", code=2)
    assert capsys.readouterr().err.endswith("is the highest; leave out --lower-is-better\n")


@pytest.mark.parametrize("options", [(), ("--lower-is-better",)], ids=("as a score", "as a loss"))
def test_scores_that_are_noise_are_neither_losses_nor_predict_a_rate(
    options: tuple[str, ...], undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no law as a score; as a loss there is one, by which 30B's rate may be any."""
    generator = np.random.default_rng(0)
    rates = np.geomspace(1e-5, 1e-2, 7)
    rows = [(n, rate, generator.normal(60, 0.5), seed) for n in SIZES for seed in range(3) for rate in rates]
    write_csv(Path("results.csv"), rows, WITH_SEED)
    fit(*options)
    output = capsys.readouterr().out
    says_nothing = re.search(r"- 30B: η = .*, which spans \d+ orders of magnitude and \*\*predicts nothing\*\*", output)
    assert bool(says_nothing) == bool(options) and ("**No law**" in output) == (not options)
    assert not re.search(r"\de-\d", output), "one minus sign"


def test_an_unbracketed_size_is_named_and_left_out(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    end = math.exp(true_log_rate(SIZES[0]) - 0.5)
    write_csv(Path("results.csv"), [row for row in exact_rows() if row[0] != SIZES[0] or row[1] < end])
    fit()
    assert law()["n"] == 3
    output = capsys.readouterr().out
    assert "not bracketed: needs" in output and "The law is through 3 of 4 sizes; 9.44M left out." in output
    assert "predicts nothing" not in output
    assert re.search(r"\n\| .*\| [0-9.e-]+ \|[^|]*\|[^|]*\| rates above ", output), "its best rate has no interval"


def test_fewer_than_three_bracketed_sizes_are_no_law(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), [(n, rate, rate) for n in SIZES for rate in RATES])
    fit()
    values = law()
    assert values["coefficients"] is None and "0 bracketed sizes" in str(values["why"])
    output = capsys.readouterr().out
    assert "**No law**" in output and "85M needs rates above 0.001" in output.replace("84.9M", "85M")


def test_a_verdict_takes_three_seeds(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for seeds in (2, 3):
        rows = []
        for n, rate, score in exact_rows():
            rows += [(n, rate, score + 0.01 * generator.normal(), seed) for seed in range(seeds)]
        write_csv(Path("results.csv"), rows, WITH_SEED)
        fit()
        output = capsys.readouterr().out
        assert ("No verdict: it takes 3 seeds per rate" in output) == (seeds < 3)
        assert ("The optimum falls with size" in output) == (seeds == 3)


def test_failed_runs_and_spellings(undrawn: None) -> None:
    rows: list[tuple[object, ...]] = [(n, f"{rate:.12g}", score) for n, rate, score in exact_rows()]
    rows += [(n, 0.5, text) for n, text in zip(SIZES, ("", "NaN", "inf", "-Infinity"), strict=True)]
    write_csv(Path("results.csv"), [("9.437184M" if row[0] == SIZES[0] else row[0], *row[1:]) for row in rows])
    fit()
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert list(optima()["failed"]) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("heading", "rows", "told"),
    [
        ("params,learning_rate,scores", grid(), "must be a column 'score'; the file has 'params', 'learning_rate', "),
        ("", [*grid(), [9e6, "fast", 1.0]], "row 14, column 'learning_rate': 'fast' must be a positive number"),
        ("", [*grid(), ["", "", ""], ["", 1e-3, 1.0]], "row 15, column 'params': '' must be a positive number"),
        ("", [*grid(), [9e6, "-1e-3", 1.0]], "row 14, column 'learning_rate': '-1e-3' must be a positive number"),
        ("", grid((9e6, 85e6)), "fewer than the three sizes"),
        ("", [[*row, ""] for row in grid()], "a row has more cells than the header"),
        (WITH_SEED, [[*row, 1] for row in [*grid(), grid()[0]]], "row 14: has size, rate and seed of a row before"),
        (WITH_SEED, [[*row, ""] for row in grid()], "row 2 has no seed"),
    ],
)
def test_a_wrong_file(heading: str, rows: list[list[object]], told: str, refused: Refused) -> None:
    write_csv(Path("results.csv"), rows, heading or "params,learning_rate,score")
    error = refused("fit-lr-law", "--from", "results.csv")
    assert "results.csv" in error and told in error
    assert not Path("results").exists()

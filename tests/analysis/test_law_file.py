"""Runs from a user's file: what is read, reported and refused; and what a fit leaves behind."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.law.figure import draw_law
from analysis.law.fit import fit_runs
from analysis.law.runs import read_runs
from mm1_lab.cli import main
from tests.analysis.lr_sweeps import CONSTANT, SIZES, SLOPE, exact_rows, true_log_rate, write_csv
from tests.conftest import Refused

RATES = (1e-4, 3e-4, 1e-3)
WITH_SEED = "params,learning_rate,score,seed"
AGAIN = [SIZES[0], float(np.float32(RATES[0])), 1.0]
"""A size and a rate of `grid`, which is spelt otherwise."""


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


@pytest.mark.parametrize("sizes", [SIZES, (1_230_000, 1_234_000, 5_000_000, 20_000_000)], ids=["apart", "alike"])
def test_a_file_of_exact_points_gives_eq_1_back(sizes: tuple[float, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Also if two sizes are alike to three digits."""
    write_csv(Path("results.csv"), exact_rows(sizes))
    fit("--predict", "30B,7B", "--scale", "mini", "--seeds", "1")  # as `make lr-law` gives them
    values = law()
    assert values["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert values["n"] == 4 and values["objective"] == "score"
    output = capsys.readouterr().out
    assert "η = exp(−0.4214 ln N − 0.5535)" in output and "30B: η = 2.21e−05" in output and "- 7B: η = " in output
    rows = optima()
    assert list(rows["optimum"]) == pytest.approx([math.exp(true_log_rate(n)) for n in sizes], rel=1e-5)
    assert list(rows["left_out_prediction"]) == pytest.approx(list(rows["optimum"]), rel=1e-4)


def test_a_spreadsheets_separators_and_spellings_of_a_seed_are_read() -> None:
    for separator in (";", "\t"):
        lines = [separator.join(map(str, row)) for row in [("params", "learning_rate", "score"), *exact_rows()]]
        Path("results.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
        assert len(read_runs(Path("results.csv"), False).points) == len(exact_rows())
    rows = [(n, rate, score, ("1", "1 ", "1.0")[place % 3]) for place, (n, rate, score) in enumerate(exact_rows())]
    write_csv(Path("results.csv"), rows, WITH_SEED)
    assert set(read_runs(Path("results.csv"), False).points["seed"]) == {0}


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


def test_sizes_that_are_nearly_alike_predict_nothing(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = exact_rows((300e6, 301e6, 302e6))
    write_csv(Path("results.csv"), [(n, rate * (1.1 if n == 301e6 else 1), score) for n, rate, score in rows])
    fit()
    told = "which, as the largest size has 1.01 times the smallest's N, **predicts nothing**; by MM1's"
    assert told in capsys.readouterr().out


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


def noisy_rows(change: Callable[[float], float]) -> list[list[object]]:
    """Three seeds of `exact_rows`, of which the last one's rates are changed, and one run of the second failed."""
    generator = np.random.default_rng(0)
    rows: list[list[object]] = []
    for seed in range(3):
        for n, rate, score in exact_rows():
            rows.append([n, repr(change(rate) if seed == 2 else rate), score + 0.01 * generator.normal(), seed])
    rows[len(rows) // 2][2] = ""
    return rows


def test_rates_that_differ_by_rounding_are_one(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for change in (float, lambda rate: float(np.float32(rate)), lambda rate: rate * 1.0002):
        write_csv(Path("results.csv"), noisy_rows(change), WITH_SEED)
        fit()
        assert "The optimum falls with size" in capsys.readouterr().out
        found.append(law()["coefficients"])
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-2)


def test_rates_of_a_dense_grid_stay_apart() -> None:
    """Only those within 0.1 % of the lowest are one with it, not a whole chain of them."""
    rates = ("1e-3", "1.0008e-3", "1.0016e-3", "1.004e-3")
    path = write_csv(Path("results.csv"), [(n, rate, 1.0) for n in SIZES for rate in rates])
    found = read_runs(path, lower_is_better=False).points["learning_rate"]
    assert sorted(set(found)) == [1e-3, 1.0016e-3, 1.004e-3]


def test_rows_without_seeds_that_are_alike_are_noted(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = exact_rows()
    for copies, told in ((0, ""), (1, "\n1 row has size, rate and score of a row before"), (3, "\n3 rows have size")):
        write_csv(Path("results.csv"), [*rows, *rows[:copies]])
        fit()
        output = capsys.readouterr().out
        assert told in output and ("of a row before" in output) == bool(copies)


@pytest.mark.usefixtures("unrendered")
def test_no_rate_is_best_where_all_scores_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), grid())
    fit()
    assert "| 9.44M |  |  |  | rates below 0.0001 and rates above 0.001 | 3 | 0 |" in capsys.readouterr().out
    assert optima()["optimum"].isna().all()


@pytest.mark.usefixtures("unrendered")
def test_a_best_rate_at_a_cliff_is_the_last_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(n, rate, score) for n, rate, score in exact_rows() if rate < math.exp(true_log_rate(n)) * 0.9]
    rows += [(n, math.exp(true_log_rate(n) + 0.6), "nan") for n in SIZES]
    write_csv(Path("results.csv"), rows)
    fit()
    found = optima()
    last = [math.exp(true_log_rate(n) - 0.2) for n in SIZES]
    assert list(found["optimum"]) == pytest.approx(last, rel=1e-5) and list(found["in_law"]) == [1] * 4
    assert list(found["high"] / found["optimum"]) == pytest.approx([math.exp(0.8)] * 4, rel=1e-4)
    output = capsys.readouterr().out
    assert "At a cliff: 9.44M, 84.9M, 302M, 1.21B. Their best η is the last rate before it" in output
    assert re.search(r"\| rates between 0.0005\d+ and 0.0012\d*, as runs beyond diverge \|", output)


def test_a_figure_shows_failed_runs_and_the_intervals_of_predictions() -> None:
    """A loss that fails is at the upper edge, a score at the lower one; sizes of one N have one star."""
    sizes = {"3B": 3e9, "3B-MoE": 3e9, "30B": 3e10}
    for sign, edge in ((1, 0.02), (-1, 0.98)):
        rows = [(n, rate, sign * score) for n, rate, score in exact_rows()]
        runs = read_runs(write_csv(Path("results.csv"), [*rows, (SIZES[0], 0.5, "nan")]), sign < 0)
        fits = fit_runs(runs)
        figure = draw_law(runs, fits, sizes)
        left, right = figure.axes
        crosses = [line.get_xydata().tolist() for line in left.get_lines() if line.get_marker() == "x"]
        assert [one for one in crosses if one] == [[[pytest.approx(0.5), edge]]]
        stars = [line.get_xdata().tolist() for line in right.get_lines() if line.get_marker() == "*"]
        assert stars == [[3e9], [3e10]] and [text.get_text() for text in right.texts] == ["3B, 3B-MoE", "30B"]
        bars = [line.get_ydata() for line in right.get_lines() if line.get_xdata().tolist() == [3e10, 3e10]]
        predicted = fits[0].law.predict(3e10)
        assert np.log(bars[0]) == pytest.approx([predicted.low, predicted.high])
        caption = " ".join(figure.get_supxlabel().split())
        assert "Crosses at the edge: failed runs." in caption and "their bars: 95 % for what a search" in caption


def test_a_figure_s_names_overprint_none_and_are_no_formulas() -> None:
    """Of predictions at sizes so near that their stars touch; and of a column with two dollars."""
    rows = exact_rows()
    runs = read_runs(write_csv(Path("results.csv"), rows, "params,learning_rate,$a$ or $b$"), False, "$a$ or $b$")
    figure = draw_law(runs, fit_runs(runs), {"30B": 3e10, "31B": 3.1e10, "3B": 3e9, "33B": 3.3e10})
    left, right = figure.axes
    names = [*left.get_legend().get_texts(), *right.texts, left.yaxis.label]
    assert left.get_ylabel() == "$a$ or $b$" and not any(text.get_parse_math() for text in names)
    figure.savefig(Path("figure.png"))
    boxes = [text.get_window_extent() for text in right.texts]
    assert len(boxes) == 4 and not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_columns_may_be_called_otherwise(undrawn: None, refused: Refused) -> None:
    shipped = [(n, rate, -score) for n, rate, score in exact_rows()]
    write_csv(Path("results.csv"), shipped, "Params,LEARNING_RATE,val loss")
    told = refused("fit-lr-law", "--from", "results.csv")
    assert told.endswith("give --score COLUMN, as in --score 'val loss' --lower-is-better\n")
    fit("--score", "Val loss", "--lower-is-better")
    assert law()["objective"] == "Val loss"
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert "--score seed: is no column of scores" in refused("fit-lr-law", "--from", "results.csv", "--score", "seed")


def test_the_lab_s_own_table_gives_its_law(undrawn: None) -> None:
    study = Path(__file__).parents[2] / "results/study/mini/lr_law"
    Path("results.csv").write_bytes((study / "points.csv").read_bytes())
    fit("--score", "held-out loss", "--lower-is-better")
    (published, _) = json.loads((study / "law.json").read_text(encoding="utf-8"))["fits"]
    assert law()["coefficients"] == pytest.approx(published["coefficients"], rel=1e-6)


@pytest.mark.parametrize(
    ("heading", "rows", "told"),
    [
        ("N,learning_rate,score", grid(), "must be a column 'params'; the file has 'N', 'learning_rate', 'score'; ren"),
        ("params,lr,score", grid(), "must be a column 'learning_rate'; the file has 'params', 'lr', 'score'; rename '"),
        ("params,learning_rate,scores", grid(), "must be a column 'score'; the file has 'params', 'learning_rate', "),
        ("", [*grid(), [9e6, "fast", 1.0]], "row 14, column 'learning_rate': 'fast' must be a positive number"),
        ("", [*grid(), ["", "", ""], ["", 1e-3, 1.0]], "row 15, column 'params': '' must be a positive number"),
        ("", [*grid(), [9e6, "-1e-3", 1.0]], "row 14, column 'learning_rate': '-1e-3' must be a positive number"),
        ("", grid((9e6, 85e6)), "fewer than the three sizes"),
        ("", [[*row, ""] for row in grid()], "a row has more cells than the header"),
        (WITH_SEED, [[*row, 1] for row in [*grid(), AGAIN]], "row 14: has size, rate (within 0.1 %) and seed of a row"),
        (WITH_SEED, [[*row, ""] for row in grid()], "row 2 has no seed"),
    ],
)
def test_a_wrong_file(heading: str, rows: list[list[object]], told: str, refused: Refused) -> None:
    write_csv(Path("results.csv"), rows, heading or "params,learning_rate,score")
    error = refused("fit-lr-law", "--from", "results.csv")
    assert "results.csv" in error and told in error
    assert not Path("results").exists()

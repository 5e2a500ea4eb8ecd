"""Runs from a user's file: what is read, reported and refused; and what a fit leaves behind."""

import itertools
import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.law.figure import draw_law
from analysis.law.fit import fit_runs
from analysis.law.runs import read_runs
from tests.analysis.lr_sweeps import CONSTANT, SIZES, SLOPE, exact_rows, true_log_rate, write_csv
from tests.conftest import Refused, Told

RATES = (1e-4, 3e-4, 1e-3)
WITH_SEED = "params,learning_rate,score,seed"
AGAIN = [SIZES[0], float(np.float32(RATES[0])), 1.0]
"""A size and a rate of `grid`, which is spelt otherwise."""


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def fit(told: Told) -> Told:
    """Fits a law to `results.csv`, and gives what is printed."""
    return partial(told, "fit-lr-law", "--from", "results.csv")


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
def test_a_file_of_exact_points_gives_eq_1_back(sizes: tuple[float, ...], fit: Told) -> None:
    """Also if two sizes are alike to three digits."""
    write_csv(Path("results.csv"), exact_rows(sizes))
    output = fit("--predict", "30B,7B", "--scale", "mini", "--seeds", "1")  # as `make lr-law` gives them
    values = law()
    assert values["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert values["n"] == 4 and values["objective"] == "score"
    assert "η = exp(−0.4214 ln N − 0.5535)" in output and "30B: η = 2.21e−05" in output and "- 7B: η = " in output
    rows = optima()
    assert list(rows["optimum"]) == pytest.approx([math.exp(true_log_rate(n)) for n in sizes], rel=1e-5)
    assert list(rows["left_out_prediction"]) == pytest.approx(list(rows["optimum"]), rel=1e-4)


def test_what_is_read_of_a_file() -> None:
    """Separators and spellings of spreadsheets; of a dense grid only rates within 0.1 % of the lowest are one."""
    for separator in (";", "\t"):
        lines = [separator.join(map(str, row)) for row in [("params", "learning_rate", "score"), *exact_rows()]]
        Path("results.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
        assert len(read_runs(Path("results.csv"), False).points) == len(exact_rows())
    rows = [(n, rate, score, ("1", "1 ", "1.0")[place % 3]) for place, (n, rate, score) in enumerate(exact_rows())]
    write_csv(Path("results.csv"), rows, WITH_SEED)
    assert set(read_runs(Path("results.csv"), False).points["seed"]) == {0}
    rates = ("1e-3", "1.0008e-3", "1.0016e-3", "1.004e-3")
    path = write_csv(Path("results.csv"), [(n, rate, 1.0) for n in SIZES for rate in rates])
    assert sorted(set(read_runs(path, False).points["learning_rate"])) == [1e-3, 1.0016e-3, 1.004e-3]


def test_losses_are_turned_round(undrawn: None, fit: Told) -> None:
    write_csv(Path("results.csv"), [(n, rate, -score) for n, rate, score in exact_rows()])
    fit("--lower-is-better")
    assert "only if the best score is the lowest, as of a loss; add --lower-is-better" in fit(code=2)
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6), "not overwritten"
    write_csv(Path("results.csv"), exact_rows())
    assert fit("--lower-is-better", code=2).endswith("is the highest; leave out --lower-is-better\n")


@pytest.mark.parametrize("options", [(), ("--lower-is-better",)], ids=("as a score", "as a loss"))
def test_scores_that_are_noise_predict_no_rate(options: tuple[str, ...], undrawn: None, fit: Told) -> None:
    """There is no law as a score; as a loss there is one, by which 30B's rate may be any."""
    generator = np.random.default_rng(0)
    rates = np.geomspace(1e-5, 1e-2, 7)
    rows = [(n, rate, generator.normal(60, 0.5), seed) for n in SIZES for seed in range(3) for rate in rates]
    write_csv(Path("results.csv"), rows, WITH_SEED)
    output = fit(*options)
    says_nothing = re.search(r"- 30B: η = .*, which spans \d+ orders of magnitude and \*\*predicts nothing\*\*", output)
    assert bool(says_nothing) == bool(options) and ("**No law**" in output) == (not options)
    assert not re.search(r"\de-\d", output), "one minus sign"


def test_an_unbracketed_size_is_left_out_and_sizes_that_are_alike_predict_nothing(undrawn: None, fit: Told) -> None:
    end = math.exp(true_log_rate(SIZES[0]) - 0.5)
    write_csv(Path("results.csv"), [row for row in exact_rows() if row[0] != SIZES[0] or row[1] < end])
    output = fit()
    assert law()["n"] == 3
    assert "not bracketed: needs" in output and "The law is through 3 of 4 sizes; 9.44M left out." in output
    assert "predicts nothing" not in output
    assert re.search(r"\n\| .*\| [0-9.e-]+ \|[^|]*\|[^|]*\| rates above ", output), "its best rate has no interval"
    rows = exact_rows((300e6, 301e6, 302e6))
    write_csv(Path("results.csv"), [(n, rate * (1.1 if n == 301e6 else 1), score) for n, rate, score in rows])
    assert "orders of magnitude and **predicts nothing**; by MM1's" in fit()


@pytest.mark.usefixtures("unrendered")
def test_fewer_than_three_bracketed_sizes_are_no_law(fit: Told) -> None:
    """Nor scores that are all alike, of which no rate is the best."""
    write_csv(Path("results.csv"), [(n, rate, rate) for n in SIZES for rate in RATES])
    output = fit()
    values = law()
    assert values["coefficients"] is None and "0 bracketed sizes" in str(values["why"])
    assert "**No law**" in output and "85M needs rates above 0.001" in output.replace("84.9M", "85M")
    write_csv(Path("results.csv"), grid())
    assert "| 9.44M |  |  |  | rates below 0.0001 and rates above 0.001 | 3 | 0 |" in fit()
    assert optima()["optimum"].isna().all()


def test_a_verdict_takes_three_seeds_and_alike_rows_without_seeds_are_noted(undrawn: None, fit: Told) -> None:
    generator = np.random.default_rng(0)
    for seeds in (2, 3):
        rows = []
        for n, rate, score in exact_rows():
            rows += [(n, rate, score + 0.01 * generator.normal(), seed) for seed in range(seeds)]
        write_csv(Path("results.csv"), rows, WITH_SEED)
        output = fit()
        assert ("No verdict: it takes 3 seeds per rate" in output) == (seeds < 3)
        assert ("The optimum falls with size" in output) == (seeds == 3)
    rows = exact_rows()
    for copies, told in ((0, ""), (1, "\n1 row has size, rate and score of a row before"), (3, "\n3 rows have size")):
        write_csv(Path("results.csv"), [*rows, *rows[:copies]])
        output = fit()
        assert told in output and ("of a row before" in output) == bool(copies)
    two = [[*row, tokens, tokens, number] for number, (row, tokens) in enumerate(itertools.product(rows, (1, 2)))]
    write_csv(Path("results.csv"), two, "params,learning_rate,score,tokens,steps,minutes")
    output = fit()
    assert "\nRows of a size differ in 'tokens', 'steps', too, and are" in output and "minutes" not in output


def test_failed_runs_and_spellings(undrawn: None, fit: Told) -> None:
    rows: list[tuple[object, ...]] = [(n, f"{rate:.12g}", score) for n, rate, score in exact_rows()]
    rows += [(n, 0.5, text) for n, text in zip(SIZES, ("", "NaN", "inf", "-Infinity"), strict=True)]
    write_csv(Path("results.csv"), [("9.437184M" if row[0] == SIZES[0] else row[0], *row[1:]) for row in rows])
    fit()
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert list(optima()["failed"]) == [1, 1, 1, 1]


@pytest.mark.usefixtures("unrendered")
def test_a_best_rate_at_a_cliff_is_the_last_before_it(fit: Told) -> None:
    rows = [(n, rate, score) for n, rate, score in exact_rows() if rate < math.exp(true_log_rate(n)) * 0.9]
    rows += [(n, math.exp(true_log_rate(n) + 0.6), "nan") for n in SIZES]
    write_csv(Path("results.csv"), rows)
    output = fit()
    found = optima()
    last = [math.exp(true_log_rate(n) - 0.2) for n in SIZES]
    assert list(found["optimum"]) == pytest.approx(last, rel=1e-5) and list(found["in_law"]) == [1] * 4
    assert list(found["high"] / found["optimum"]) == pytest.approx([math.exp(0.8)] * 4, rel=1e-4)
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


def test_columns_may_be_called_otherwise_as_the_lab_s_own(undrawn: None, refused: Refused, fit: Told) -> None:
    shipped = [(n, rate, -score) for n, rate, score in exact_rows()]
    write_csv(Path("results.csv"), shipped, "Params,LEARNING_RATE,val loss")
    told = refused("fit-lr-law", "--from", "results.csv")
    assert told.endswith("give --score COLUMN, as in --score 'val loss' --lower-is-better\n")
    fit("--score", "Val loss", "--lower-is-better")
    assert law()["objective"] == "Val loss"
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert "--score seed: is no column of scores" in refused("fit-lr-law", "--from", "results.csv", "--score", "seed")
    study = Path(__file__).parents[2] / "results/study/mini/lr_law"
    Path("results.csv").write_bytes((study / "points.csv").read_bytes())
    fit("--score", "held-out loss", "--lower-is-better")
    (published, _) = json.loads((study / "law.json").read_text(encoding="utf-8"))["fits"]
    assert law()["coefficients"] == pytest.approx(published["coefficients"], rel=1e-6)


@pytest.mark.parametrize(
    ("heading", "rows", "told"),
    [
        ("N,learning_rate,score", grid(), "must be a column 'params'; the file has 'N', 'learning_rate', 'score'"),
        ("params,lr,score", grid(), "must be a column 'learning_rate'; the file has 'params', 'lr', 'score'"),
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

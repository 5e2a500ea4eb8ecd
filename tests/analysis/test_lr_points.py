"""Measurements from files: what is read, profiled out, reported and refused; and what a fit leaves behind."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.law import lr_law_figure
from analysis.law.lr_law import Target, fit_all
from analysis.law.lr_points import read_points
from mm1_lab.cli import main
from tests.analysis.lr_sweeps import CONSTANT, SIZES, SLOPE, exact_rows, fall, true_log_rate, write_csv

RATES = (1e-4, 3e-4, 1e-3)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(*options: str, code: int = 0) -> None:
    assert main(["fit-lr-law", "--from", "results.csv", *options]) == code


def law() -> dict[str, object]:
    (folder,) = Path("results/local/lr_law").glob("results-*")
    values: dict[str, object] = json.loads((folder / "law.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and other tests draw."""
    monkeypatch.setattr("analysis.law.lr_report.draw_law", lambda measurements, fits, path: [])


def grid(sizes: tuple[float, ...] = SIZES) -> list[list[object]]:
    return [[n, rate, 1.0] for n in sizes for rate in RATES]


def test_a_file_of_exact_points_gives_eq_1_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), exact_rows())
    fit("--predict", "30B,7B")
    values = law()
    assert values["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert values["n"] == 4 and values["objective"] == "score"
    output = capsys.readouterr().out
    assert "η = exp(−0.4214 ln N − 0.5535)" in output and "2.21e-05" in output and "| 7B |" in output
    (folder,) = Path("results/local/lr_law").glob("results-*")
    assert {path.name for path in folder.iterdir()} == {
        "points.csv", "optima.csv", "law.json", "figure.png", "figure.pdf", "table.md",
    }  # fmt: skip
    rows = list(csv.DictReader((folder / "optima.csv").open(encoding="utf-8")))
    assert [float(row["optimum"]) for row in rows] == pytest.approx(
        [math.exp(true_log_rate(n)) for n in SIZES], rel=1e-5
    )
    assert [float(row["left_out_prediction"]) for row in rows] == pytest.approx(
        [float(row["optimum"]) for row in rows], rel=1e-4
    )


def test_sizes_alike_to_three_digits_are_told_apart() -> None:
    sizes = (1_230_000, 1_234_000, 5_000_000, 20_000_000)
    write_csv(Path("results.csv"), [(n, rate, score) for n, rate, score in exact_rows(sizes)])
    names = read_points(Path("results.csv"), False).points["name"].unique()
    assert names.tolist() == ["1230000", "1234000", "5M", "20M"]


def test_losses_are_turned_round(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), [(n, rate, -score) for n, rate, score in exact_rows()])
    fit("--lower-is-better")
    fit(code=2)
    error = capsys.readouterr().err
    assert error == (
        "mm1-lab: --from results.csv: there is a law only if the best score is the lowest, as of a loss; "
        "add --lower-is-better\n"
    )
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6), "not overwritten"
    write_csv(Path("results.csv"), exact_rows())
    fit("--lower-is-better", code=2)
    assert capsys.readouterr().err.endswith("is the highest; leave out --lower-is-better\n")


def test_the_best_over_a_column_is_kept_with_all_its_seeds(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        (n, rate, score - 5 * abs(batch - 64) + 0.01 * seed, seed, batch, batch)
        for n, rate, score in exact_rows()
        for batch in (32, 64, 128)
        for seed in (0, 1)
    ]
    heading = "params,learning_rate,score,seed,batch_size,width"
    write_csv(Path("results.csv"), rows, heading)
    for profile in (["width"], []):  # batch_size is profiled out without being named
        kept = read_points(Path("results.csv"), False, profile)
        assert len(kept.points) == len(rows) / 3 and "batch_size" in kept.notes[0]
        assert sorted(kept.points["score"].tolist()) == sorted(row[2] for row in rows if row[4] == 64)
    fit("--profile", "width")
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert "40 of 120 rows are kept" in capsys.readouterr().out


def test_tokens_make_a_law_of_both_and_thousands_of_rows_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(3)
    rows = []
    for n in (6e7, 1.2e8, 2.7e8, 5.4e8, 1.1e9):
        for d in (2e9, 8e9, 5e10):
            best = 0.58 - 0.713 * math.log(n) + 0.307 * math.log(d)
            for rate in np.exp(0.35 * np.arange(-26, -10)):
                for batch in (1, 2, 4, 8, 16, 32):
                    drop = float(fall(np.array(math.log(rate) - best))) - 0.01 * math.log(batch / 4) ** 2
                    score = "nan" if math.log(rate) - best > 3 else 2.5 - drop + 0.0005 * generator.normal()
                    rows.append((f"{n:.0f}", f"{d:.0f}", f"{rate:.6g}", batch, score))
    write_csv(Path("results.csv"), rows, "params,tokens,learning_rate,batch_size,score")
    fit("--lower-is-better", "--predict", "30B:600B")
    values = law()
    for name, truth in (("ln N", -0.713), ("ln D", 0.307)):
        assert values["coefficients"][name] == pytest.approx(truth, abs=0.02)  # type: ignore[index]
    assert "30B:600B" in capsys.readouterr().out
    fit("--lower-is-better", "--predict", "30B", code=2)
    assert "30B:100B" in capsys.readouterr().err


def test_an_unbracketed_size_is_named_left_out_and_kept_on_request(
    undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row for row in exact_rows() if not (row[0] == SIZES[0] and row[1] > math.exp(true_log_rate(SIZES[0]) - 0.5))
    ]
    write_csv(Path("results.csv"), rows)
    fit()
    assert law()["n"] == 3
    assert "9.44M (needs rates above" in capsys.readouterr().out
    fit("--keep-unbracketed")
    assert law()["n"] == 4


def test_fewer_than_three_bracketed_sizes_are_no_law(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), [(n, rate, rate) for n in SIZES for rate in RATES])
    fit()
    values = law()
    assert values["coefficients"] is None and "0 bracketed sizes" in str(values["why"])
    output = capsys.readouterr().out
    assert "**No law**" in output and "85M needs rates above 0.001" in output.replace("84.9M", "85M")


def test_two_files_of_one_name_do_not_replace_each_other(undrawn: None) -> None:
    laws = []
    for place, slope in (("here", 1.0), ("there", -1.0)):
        Path(place).mkdir()
        write_csv(Path(place) / "results.csv", [(n, rate, slope * score) for n, rate, score in exact_rows()])
        losses = ["--lower-is-better"] * (slope < 0)
        assert main(["fit-lr-law", "--from", f"{place}/results.csv", *losses]) == 0
        assert main(["fit-lr-law", "--from", str(Path(place).resolve() / "results.csv"), *losses]) == 0
        laws = sorted(Path("results/local/lr_law").iterdir())
    assert len(laws) == 2, "a folder per file, however its path is written"


def test_a_verdict_takes_three_seeds(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for seeds in (1, 2, 3):
        rows = [
            (n, rate, score + 0.01 * generator.normal(), seed)
            for n, rate, score in exact_rows()
            for seed in range(seeds)
        ]
        write_csv(Path("results.csv"), rows, "params,learning_rate,score,seed")
        fit()
        output = capsys.readouterr().out
        assert ("No verdict: it takes 3 seeds per rate" in output) == (seeds < 3)
        assert ("The optimum falls with size" in output) == (seeds == 3)


def test_a_page_of_many_sizes_lists_some_and_the_file_all(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), exact_rows(np.geomspace(1e6, 1e9, 60)))
    fit()
    output = capsys.readouterr().out
    assert "20 more cells are in optima.csv" in output
    (folder,) = Path("results/local/lr_law").iterdir()
    assert len((folder / "optima.csv").read_text(encoding="utf-8").splitlines()) == 61


def test_the_figure_says_what_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines by tokens have their colours; the caption names bands and stars only where they are."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(lr_law_figure, "save", lambda figure, path: figures.append(figure) or [path])
    rows = [
        (n, d, f"{math.exp(true_log_rate(n) + 0.3 * math.log(d / 1e9) + step):.9g}", -((step + 0.1 * n / d) ** 2))
        for n in SIZES
        for d in (1e9, 1e10, 1e11, 1e12)
        for step in (-1.5, -0.8, -0.2, 0.6, 1.1)
    ]
    kinds = (("params,tokens,learning_rate,score", rows, ""), ("params,learning_rate,score", exact_rows(), "points"))
    for heading, kept, unit in kinds:
        write_csv(Path("results.csv"), kept, heading)
        measurements = read_points(Path("results.csv"), False)
        measurements = replace(measurements, objectives=(replace(measurements.objectives[0], unit=unit),))
        targets = [] if "tokens" in heading else [Target("30B", 3e10)]
        lr_law_figure.draw_law(measurements, fit_all(measurements, targets), Path("figure"))
    (both, plain) = (figure.get_supxlabel() for figure in figures)
    assert "not every size is shown" in both and "band" not in both and "stars" not in both
    assert "stars" in plain and "line and band" in plain and "tokens" not in plain
    left, right = figures[0].axes
    assert left.get_ylabel() == "score", "a user's scores are of any unit"
    assert [axis.get_ylabel() for axis in figures[1].axes] == ["score, points", "best η"]
    lines = {line.get_label(): line.get_color() for line in right.lines if "tokens" in str(line.get_label())}
    assert set(lines) == {"1B tokens", "100B tokens", "1T tokens"}
    points = {container[0].get_color() for container in right.containers}
    assert {tuple(colour) for colour in lines.values()} <= {tuple(colour) for colour in points}
    figures[0].canvas.draw()  # type: ignore[attr-defined]
    legend, label = left.get_legend(), left.xaxis.get_label()
    assert legend is not None and not legend.get_window_extent().overlaps(label.get_window_extent())


def test_failed_runs_and_spellings(undrawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[tuple[object, ...]] = [(n, f"{rate:.12g}", score) for n, rate, score in exact_rows()]
    rows += [(n, 0.5, text) for n, text in zip(SIZES, ("", "NaN", "inf", "-Infinity"), strict=True)]
    write_csv(Path("results.csv"), [("9.437184M" if row[0] == SIZES[0] else row[0], *row[1:]) for row in rows])
    fit()
    assert law()["coefficients"] == pytest.approx({"ln N": SLOPE, "constant": CONSTANT}, abs=1e-6)
    assert capsys.readouterr().out.count("1 failed") == 4


@pytest.mark.parametrize(
    ("heading", "rows", "fragments"),
    [
        ("params,lr,score", grid(), ["no column 'learning_rate'"]),
        ("params,learning_rate,scores", grid(), ["no column 'score'", "has 'params', 'learning_rate', 'scores'"]),
        ("", [*grid()[:2], [9e6, "fast", 1.0], *grid()[3:]], ["row 4, column 'learning_rate': 'fast' is not a number"]),
        ("", [*grid()[:5], [9e6, 1e-3, "good"], *grid()], ["row 7, column 'score': 'good' is not a number"]),
        ("", [*grid(), [9e6, -1e-3, 1.0]], ["row 14, column 'learning_rate': '-0.001' must be a number above 0"]),
        ("", [*grid(), [9e6, 0, 1.0]], ["'0' must be a number above 0"]),
        ("", [*grid(), ["", 1e-3, 1.0]], ["row 14, column 'params': '' is not a number"]),
        ("", [*grid(), [9e6, "1e-300", 1.0]], ["row 14, column 'learning_rate': '1e-300' is not between 1e-12 and"]),
        ("", [*grid(), [9e6, "1e300", 1.0]], ["'1e300' is not between 1e-12 and 1e+06"]),
        ("", [*grid(), ["1e300", 1e-3, 1.0]], ["row 14, column 'params': '1e300' is not between 1 and 1e+21"]),
        ("", grid((9e6, 85e6)), ["has 2 sizes", "three or more"]),
        ("", [[n, 1e-3, 1.0] for n in SIZES], ["one learning rate"]),
        ("", [], ["holds no rows"]),
        ("", [[*row, ""] for row in grid()], ["row 2 has more cells than the header"]),
        ("params,learning_rate,score,tokens", [[*row, "many"] for row in grid()], ["row 2, column 'tokens': 'many'"]),
    ],
)
def test_wrong_files(
    heading: str, rows: list[list[object]], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(Path("results.csv"), rows, heading or "params,learning_rate,score")
    fit(code=2)
    error = capsys.readouterr().err
    assert error.startswith("mm1-lab: ") and error.count("\n") == 1 and "results.csv" in error
    assert all(fragment in error for fragment in fragments), error
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--profile", "batch"], ["--profile: there is no column 'batch'"]),
        (["--predict", "huge"], ["--predict huge", "9M, 1.2B"]),
        (["--sizes", "9M,85M,302M"], ["--sizes", "--from"]),
    ],
)
def test_wrong_options(options: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("results.csv"), exact_rows())
    fit(*options, code=2)
    error = capsys.readouterr().err
    assert all(fragment in error for fragment in fragments), error


def test_a_file_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    fit(code=2)
    assert "no such file" in capsys.readouterr().err
    Path("results.csv").write_bytes(b"\x00\xff\xfe")
    fit(code=2)
    assert "results.csv" in capsys.readouterr().err

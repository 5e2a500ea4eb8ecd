"""Reads runs over learning rates from a user's CSV file."""

import math
from pathlib import Path

import pandas as pd

from analysis.law.fit import FEWEST, Objective, Runs
from mm1_lab.config import RequestError, parse_count, short_count

FAILED = ("", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a")
"""Spellings of a failed run's score, in lower case."""


def read_runs(path: Path, lower_is_better: bool) -> Runs:
    """Reads the columns `params, learning_rate, score` and, if there is one, `seed`.

    Raises RequestError for what cannot be fitted; an invalid value is named with its row (the header is row 1).
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise RequestError(f"--from {path}: cannot be read as CSV ({str(error).strip()})") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells of such rows for names of rows
        raise RequestError(f"--from {path}: row 2 has more cells than the header; name every column, or remove cells")
    table.columns = table.columns.str.strip()
    points = pd.DataFrame()
    for column in ("params", "learning_rate", "score"):
        if list(table.columns).count(column) != 1:
            has = ", ".join(map(repr, table.columns[:12]))
            raise RequestError(f"{path}: there must be one column {column!r}; the file has {has}")
        values = []
        for row, text in enumerate(table[column].str.strip(), 2):
            try:
                values.append(_score(text) if column == "score" else _size_or_rate(text))
            except ValueError:
                wants = "a number, or empty if the run failed" if column == "score" else "a number from 1e-12 to 1e21"
                raise RequestError(f"{path}, row {row}, column {column!r}: {text!r} must be {wants}") from None
        points[column] = values
    points["seed"] = pd.factorize(table["seed"], sort=True)[0] if "seed" in table else -1
    short = points["params"].map(short_count)
    alike = points["params"].groupby(short).transform("nunique") > 1
    points["name"] = short.mask(alike, points["params"].map("{:.17g}".format))

    twice = points["seed"].ge(0) & points.duplicated(["params", "learning_rate", "seed"])
    if twice.any():
        row = int(twice.to_numpy().argmax()) + 2
        raise RequestError(f"{path}, row {row}: has size, rate and seed of a row before; keep one row")
    if points["params"].nunique() < FEWEST:
        raise RequestError(f"{path}: has fewer than the three sizes that fitting a law needs")
    return Runs(path.name, points, (Objective("score", lower_is_better),))


def _score(text: str) -> float:
    return math.nan if text.lower() in FAILED else float(text)


def _size_or_rate(text: str) -> float:
    value = parse_count(text)
    if not 1e-12 <= value <= 1e21:  # a typing error, which would overflow the figure
        raise ValueError
    return value

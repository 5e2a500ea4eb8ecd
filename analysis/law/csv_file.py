"""Reads runs over learning rates from a user's CSV file."""

from pathlib import Path

import pandas as pd

from analysis.law.fit import FEWEST, Objective, Runs
from mm1_lab.config import RequestError, parse_count, short_count

LIMITS = {"params": (1.0, 1e21), "learning_rate": (1e-12, 1e6)}
"""Values outside are typing errors and would overflow figures."""
FAILED = ("", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a")
"""Spellings of a failed run's score, in lower case."""


def read_runs(path: Path, lower_is_better: bool) -> Runs:
    """Reads the columns `params, learning_rate, score` and, if there is one, `seed`.

    Raises RequestError for what cannot be fitted; an invalid value is named with its row (the header is row 1).
    """
    table = _read(path)
    points = table[["params", "learning_rate"]].map(parse_count)
    points["score"] = table["score"].mask(table["score"].str.lower().isin(FAILED), "nan").astype(float)
    points["seed"] = -1
    if "seed" in table:
        points["seed"] = pd.factorize(table["seed"].where(table["seed"] != ""), sort=True)[0]
    short = points["params"].map(short_count)
    alike = points["params"].groupby(short).transform("nunique") > 1
    points["name"] = short.mask(alike, points["params"].map("{:.17g}".format))

    for column in ("tokens", "batch_size"):  # the best rate depends on them too
        if column in table and (table[column].groupby(points["params"]).nunique() > 1).any():
            raise RequestError(f"{path}: {column!r} differs within a size; keep the rows of one value, e.g. the best")
    twice = points["seed"].ge(0) & points.duplicated(["params", "learning_rate", "seed"])
    if twice.any():
        row = int(twice.to_numpy().argmax()) + 2
        raise RequestError(f"{path}, row {row}: has size, rate and seed of a row before; keep one row")
    sizes = points.groupby("params")["learning_rate"].nunique()
    if sizes.max() < 2:
        raise RequestError(f"{path}: every size has one learning rate; an optimum needs at least three rates per size")
    if len(sizes) < FEWEST:
        raise RequestError(f"{path}: has only {len(sizes)} of the three or more sizes that fitting a law needs")
    return Runs(path.name, points, (Objective("score", lower_is_better),))


def _read(path: Path) -> pd.DataFrame:
    """The file as text, with every cell checked."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise RequestError(f"--from {path}: cannot be read as CSV ({str(error).strip()})") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells of such rows for names of rows
        raise RequestError(f"--from {path}: row 2 has more cells than the header; name every column, or remove cells")
    table.columns = table.columns.str.strip()
    table = table.apply(lambda column: column.str.strip())
    for column in ("params", "learning_rate", "score"):
        if list(table.columns).count(column) != 1:
            has = ", ".join(map(repr, table.columns[:12]))
            raise RequestError(f"{path}: there must be one column {column!r}; the file has {has}")
        for row, text in table[column].drop_duplicates().items():
            if problem := _problem(column, text):
                raise RequestError(f"{path}, row {row + 2}, column {column!r}: {text!r} {problem}")
    if len(table) == 0:
        raise RequestError(f"{path}: holds no rows")
    return table


def _problem(column: str, text: str) -> str:
    """What is wrong with a cell, or an empty text."""
    if column == "score":
        is_number = pd.notna(pd.to_numeric(text, errors="coerce"))
        return "" if is_number or text.lower() in FAILED else "is not a number; leave the score of a failed run empty"
    try:
        value = parse_count(text)
    except ValueError:
        return "must be a number above 0"
    low, high = LIMITS[column]
    return "" if low <= value <= high else f"is not between {low:g} and {high:g}"

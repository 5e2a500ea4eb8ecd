"""Measurements of scores over learning rates, from a CSV file of the user's or anybody's sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.optimum import Cell
from mm1_lab.config import RequestError, parse_count, short_count

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("params", "learning_rate", "score")
BATCH_SIZE = "batch_size"
RATES, COUNTS = (1e-12, 1e6), (1.0, 1e21)
"""What a learning rate, and a number of parameters or tokens, may be: further out is a slip of the pen, and figures
overflow."""
FAILED = ("", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a")
"""How files write the score of a run that failed, in lower case."""


@dataclass(frozen=True)
class Objective:
    """What is to be best: a column of the points."""

    column: str
    lower_is_better: bool


@dataclass(frozen=True)
class Measurements:
    """Runs that differ in size, learning rate and seed."""

    title: str
    points: pd.DataFrame
    """A row a run: name (the cell's), params, tokens (NaN where not said), learning_rate, seed (−1 where not said), and
    a column an objective, NaN where the run failed."""
    objectives: tuple[Objective, ...]
    """The one in front first."""
    notes: tuple[str, ...] = ()

    def cells(self, objective: Objective) -> list[Cell]:
        """By size and tokens; scores are turned so that higher is better."""
        cells = [rows for _, rows in self.points.groupby(["params", "tokens"], dropna=False)]
        sign = -1.0 if objective.lower_is_better else 1.0
        tokens = [float(rows["tokens"].iloc[0]) for rows in cells]
        return [
            Cell(
                name=str(rows["name"].iloc[0]),
                params=float(rows["params"].iloc[0]),
                tokens=None if math.isnan(count) else count,
                log_rates=np.round(np.log(rows["learning_rate"].to_numpy(np.float64)), 10),
                scores=sign * rows[objective.column].to_numpy(np.float64),
                seeds=rows["seed"].to_numpy(np.int64),
            )
            for rows, count in zip(cells, tokens, strict=True)
        ]


def read_points(path: Path, lower_is_better: bool, profile: Sequence[str] = ()) -> Measurements:
    """Reads `params, learning_rate, score`, and if they are there `seed`, `tokens` and the columns to profile out.

    At each learning rate of a cell the best value of the profiled columns is kept; `batch_size`, where it varies, is
    profiled in any case. Raises RequestError for what cannot be read, naming row (the heading is row 1) and column.
    """
    table = _read(path, profile)
    points = table[["params", "learning_rate"]].map(parse_count)
    points["tokens"] = table["tokens"].map(parse_count) if "tokens" in table else np.nan
    points["score"] = [math.nan if text.lower() in FAILED else float(text) for text in table["score"]]
    points.loc[~np.isfinite(points["score"]), "score"] = math.nan
    known = table["seed"] != "" if "seed" in table else np.zeros(len(table), bool)
    points["seed"] = np.where(known, table["seed"].astype("category").cat.codes if "seed" in table else -1, -1)
    points["name"] = [_name(n, d) for n, d in zip(points["params"], points["tokens"], strict=True)]
    profiled = list(profile)
    if BATCH_SIZE in table and BATCH_SIZE not in profiled and table[BATCH_SIZE].nunique() > 1:
        profiled.append(BATCH_SIZE)
    notes = []
    if profiled:
        before = len(points)
        points = _profiled(points, table[profiled], lower_is_better)
        notes.append(
            f"At each learning rate the best {' and '.join(profiled)}: {len(points)} of {before} rows are kept."
        )
    keys = ["params", "tokens", "learning_rate", "seed"]
    twice = int(points[points["seed"] >= 0].duplicated(keys).sum())
    if twice:
        notes.append(
            f"{twice} rows have the size, rate and seed of another; they count as runs of their own. "
            "If a column tells them apart, name it: --profile COLUMN."
        )
    _check_rates(path, points)
    return Measurements(path.name, points.reset_index(drop=True), (Objective("score", lower_is_better),), tuple(notes))


def _read(path: Path, profile: Sequence[str]) -> pd.DataFrame:
    """The file as text, checked cell by cell."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise RequestError(f"--from {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"--from {path}: cannot be read as CSV ({str(error).strip()})") from None
    table.columns = table.columns.str.strip()
    for column in (*NEEDED, *profile):
        if column not in table.columns:
            asked = "--profile: " if column in profile else ""
            has = ", ".join(map(repr, table.columns[:12]))
            raise RequestError(f"{path}: {asked}there is no column {column!r}; the file has {has}")
    if table.columns.duplicated().any():
        raise RequestError(f"{path}: the column {table.columns[table.columns.duplicated()][0]!r} is there twice")
    if len(table) == 0:
        raise RequestError(f"{path}: holds no rows")
    table = table.apply(lambda column: column.str.strip())
    for column in [name for name in (*NEEDED, "tokens") if name in table]:
        for text in table[column].unique():
            problem = _problem(column, text)
            if problem:
                row = int(np.flatnonzero(table[column] == text)[0]) + 2
                raise RequestError(f"{path}, row {row}, column {column!r}: {text!r} {problem}")
    return table


def _problem(column: str, text: str) -> str:
    if column == "score" and text.lower() in FAILED:
        return ""
    try:
        value = float(text) if column == "score" else parse_count(text)
    except ValueError:
        if column == "score":
            return "is not a number; leave the score of a run that failed empty"
        return "must be a number above 0" if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text, re.I) else "is not a number"
    low, high = RATES if column == "learning_rate" else COUNTS
    return "" if column == "score" or low <= value <= high else f"is not between {low:g} and {high:g}"


def _name(params: float, tokens: float) -> str:
    return short_count(params) if math.isnan(tokens) else f"{short_count(params)}, {short_count(tokens)} tokens"


def _profiled(points: pd.DataFrame, columns: pd.DataFrame, lower_is_better: bool) -> pd.DataFrame:
    """The rows with the best value of the columns, by the mean over seeds, at each rate of each cell."""
    value = columns.agg("\x1f".join, axis=1)
    cell = ["params", "tokens", "learning_rate"]
    means = points.assign(value=value).groupby([*cell, "value"], dropna=False, sort=False)["score"]
    score = means.transform("mean") * (-1 if lower_is_better else 1)
    # of values that tie, and where every run failed, the first one counts
    ranked = points.assign(value=value, rank=score.fillna(-math.inf)).sort_values(
        "rank", ascending=False, kind="stable"
    )
    best = ranked.groupby(cell, dropna=False)["value"].transform("first")
    kept = ranked.index[ranked["value"] == best]
    return points.loc[kept.sort_values()]


def _check_rates(path: Path, points: pd.DataFrame) -> None:
    rates = points.groupby(["params", "tokens"], dropna=False)["learning_rate"].nunique()
    if (rates < 2).all():
        raise RequestError(f"{path}: every size has one learning rate; an optimum takes at least three rates a size")
    sizes = points["params"].nunique()
    if sizes < 3:
        plural = "size" if sizes == 1 else "sizes"
        raise RequestError(f"{path}: has {sizes} {plural}; a law with an uncertainty takes three or more")

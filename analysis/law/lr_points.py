"""Measurements of scores over learning rates, and how they are read from a CSV file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics import Floats
from mm1_lab.config import RequestError, parse_count, short_count

NEEDED = ("params", "learning_rate", "score")
BATCH_SIZE = "batch_size"
CELL = ["params", "tokens"]
RATES, COUNTS = (1e-12, 1e6), (1.0, 1e21)
"""Valid ranges of learning rates and of parameter or token counts: values outside are typing errors and would overflow
figures."""
FAILED = ("", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "none", "null", "na", "n/a")
"""Spellings of a failed run's score, in lower case."""
HELD_OUT = "held-out loss"


@dataclass(frozen=True)
class Cell:
    """Runs of one model size (and one number of training tokens) that differ in learning rate and seed."""

    name: str
    params: float
    tokens: float | None
    log_rates: Floats
    """(runs,)"""
    scores: Floats
    """(runs,), higher is better; not finite for failed runs."""
    seeds: NDArray[np.int64]
    """(runs,); −1 if unknown."""

    @property
    def failed(self) -> int:
        return int((~np.isfinite(self.scores)).sum())

    @property
    def known_seeds(self) -> int:
        """The number of distinct seeds; 1 if they are unknown."""
        return len(np.unique(self.seeds))


@dataclass(frozen=True)
class Objective:
    """The column of the points to optimise."""

    column: str
    lower_is_better: bool
    unit: str = ""
    """For the figure; empty if unknown."""


@dataclass(frozen=True)
class Measurements:
    """Runs that differ in size, learning rate and seed."""

    title: str
    points: pd.DataFrame
    """A row per run: name (the cell's; several may have one size), params, tokens (NaN if unknown), learning_rate, seed
    (−1 if unknown), and a column per objective (NaN if the run failed)."""
    objectives: tuple[Objective, ...]
    """The objectives, the main one first."""
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    """What stands below the figure too."""

    def cells(self, objective: Objective) -> list[Cell]:
        """The cells by size and tokens; scores are negated if lower is better."""
        cells, sign = [], -1.0 if objective.lower_is_better else 1.0
        for _, rows in self.points.groupby([*CELL, "name"], dropna=False):
            name, params, tokens = rows.iloc[0][["name", *CELL]]
            rates = np.round(np.log(rows["learning_rate"].to_numpy(np.float64)), 10)
            scores, seeds = sign * rows[objective.column].to_numpy(np.float64), rows["seed"].to_numpy(np.int64)
            cells.append(Cell(name, params, None if math.isnan(tokens) else tokens, rates, scores, seeds))
        return cells


def read_points(path: Path, lower_is_better: bool, profile: Sequence[str] = ()) -> Measurements:
    """Reads the columns `params, learning_rate, score`, optionally `seed` and `tokens`, and the columns to profile out.

    At each learning rate of a cell, only the best value of the profiled columns is kept; `batch_size` is always
    profiled if it varies. Raises RequestError for invalid values, naming row (the header is row 1) and column.
    """
    table = _read(path, profile)
    points = table[["params", "learning_rate"]].map(parse_count)
    points["tokens"] = table["tokens"].map(parse_count) if "tokens" in table else np.nan
    failed = table["score"].str.lower().isin(FAILED)
    points["score"] = table["score"].mask(failed, "nan").astype(float).replace([math.inf, -math.inf], math.nan)
    seeds = table["seed"] if "seed" in table else pd.Series("", table.index)
    points["seed"] = pd.factorize(seeds.where(seeds != ""), sort=True)[0]
    points["name"] = _names(points)
    profiled = list(profile)
    if BATCH_SIZE in table and BATCH_SIZE not in profiled and table[BATCH_SIZE].nunique() > 1:
        profiled.append(BATCH_SIZE)
    notes = []
    if profiled:
        points = _profiled(points, table[profiled], lower_is_better)
        kept = f"{len(points)} of {len(table)} rows are kept."
        notes.append(f"At each learning rate the best {' and '.join(profiled)}: {kept}")
    if twice := int(points[points["seed"] >= 0].duplicated([*CELL, "learning_rate", "seed"]).sum()):
        notes.append(
            f"{twice} rows have the size, rate and seed of another; they count as runs of their own. "
            "If a column tells them apart, name it: --profile COLUMN."
        )
    if (points.groupby(CELL, dropna=False)["learning_rate"].nunique() < 2).all():
        raise RequestError(f"{path}: every size has one learning rate; an optimum needs at least three rates per size")
    if (sizes := points["params"].nunique()) < 3:
        plural = "size" if sizes == 1 else "sizes"
        raise RequestError(f"{path}: has {sizes} {plural}; fitting a law with its uncertainty needs three or more")
    return Measurements(path.name, points.reset_index(drop=True), (Objective("score", lower_is_better),), tuple(notes))


def _names(points: pd.DataFrame) -> pd.Series[str]:
    """The cells' names: counts of three digits, or of all digits where two cells would have the same name."""

    def name(count: Callable[[float], str]) -> pd.Series[str]:
        tokens = points["tokens"].map(lambda d: "" if math.isnan(d) else f", {count(d)} tokens")
        return points["params"].map(count) + tokens

    short, exact = name(short_count), name("{:.17g}".format)
    return short.where(exact.groupby(short).transform("nunique") == 1, exact)


def _read(path: Path, profile: Sequence[str]) -> pd.DataFrame:
    """The file as text, with every cell checked."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise RequestError(f"--from {path}: cannot be read as CSV ({str(error).strip()})") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells of such rows for names of rows
        raise RequestError(f"--from {path}: row 2 has more cells than the header; name every column, or remove cells")
    table.columns = table.columns.str.strip()
    for column in (*NEEDED, *profile):
        if column not in table.columns:
            asked = "--profile: " if column in profile else ""
            has = ", ".join(map(repr, table.columns[:12]))
            raise RequestError(f"{path}: {asked}there is no column {column!r}; the file has {has}")
    if table.columns.duplicated().any():
        raise RequestError(f"{path}: the column {table.columns[table.columns.duplicated()][0]!r} appears twice")
    if len(table) == 0:
        raise RequestError(f"{path}: holds no rows")
    table = table.apply(lambda column: column.str.strip())
    for column in [name for name in (*NEEDED, "tokens") if name in table]:
        for row, text in table[column].drop_duplicates().items():
            if problem := _problem(column, text):
                raise RequestError(f"{path}, row {row + 2}, column {column!r}: {text!r} {problem}")
    return table


def _problem(column: str, text: str) -> str:
    """What is wrong with a cell, or an empty text."""
    if column == "score":
        number = text.lower() in FAILED or is_number(text)
        return "" if number else "is not a number; leave the score of a failed run empty"
    try:
        value = parse_count(text)
    except ValueError:
        return "must be a number above 0" if is_number(text) else "is not a number"
    low, high = RATES if column == "learning_rate" else COUNTS
    return "" if low <= value <= high else f"is not between {low:g} and {high:g}"


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _profiled(points: pd.DataFrame, columns: pd.DataFrame, lower_is_better: bool) -> pd.DataFrame:
    """The rows with the best value of `columns` (by the mean over seeds) at each rate of each cell."""
    runs, rate = points.assign(value=columns.agg("\x1f".join, axis=1)), [*CELL, "learning_rate"]
    means = runs.groupby([*rate, "value"], dropna=False, sort=False)["score"].transform("mean")
    runs["rank"] = (means * (-1 if lower_is_better else 1)).fillna(-math.inf)
    # the first value is kept if several tie or every run failed
    ranked = runs.sort_values("rank", ascending=False, kind="stable")
    best = ranked.groupby(rate, dropna=False)["value"].transform("first")
    return points[(best == ranked["value"]).reindex(points.index)]

"""The learning-rate law ln η* = a ln N + b: least squares through the optima of the sizes (MM1, section 4, Eq. 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.law.optimum import Cell, Optimum, find_optimum
from analysis.statistics import Floats, Interval

FEWEST = 3
"""Bracketed sizes that a law needs: with two there is no residual."""
VERDICT_SEEDS = 3
"""Seeds per rate that a verdict needs, as a seed shifts all rates of a size together; with fewer there is none."""


@dataclass(frozen=True)
class Objective:
    """A column of scores."""

    column: str
    lower_is_better: bool = False
    unit: str = ""
    """For the figure; empty if unknown."""


@dataclass(frozen=True)
class Runs:
    """Runs that differ in size, learning rate and seed."""

    title: str
    points: pd.DataFrame
    """A row per run: name (the cell's), params, learning_rate, seed (−1 if unknown), and a column per objective (NaN if
    the run failed)."""
    objectives: tuple[Objective, ...]
    """The main one first."""
    notes: tuple[str, ...] = ()
    """What stands above the table."""
    cautions: tuple[str, ...] = ()
    """What stands below the figure too."""


@dataclass(frozen=True)
class Law:
    """A least-squares line. Intervals are Student's t with (optima − 2) degrees of freedom."""

    cells: tuple[str, ...]
    slope: Interval
    constant: Interval
    covariance: Floats
    scatter: float
    """Standard deviation of the optima around the line, in ln η; NaN for two optima."""

    def line(self, params: float, spread: float = 0.0) -> Interval:
        """ln η by the law; `spread` is a standard deviation added to its error."""
        row = np.array([math.log(params), 1.0])
        estimate = self.slope.estimate * row[0] + self.constant.estimate
        error = math.sqrt(row @ self.covariance @ row + spread**2)
        return Interval(float(estimate), error, self.slope.degrees_of_freedom)

    def predict(self, params: float) -> Interval:
        """ln η with the prediction interval for the optimum that a search at this size would find."""
        return self.line(params, self.scatter)


@dataclass(frozen=True)
class Fit:
    """The optima by one objective and the law through them."""

    objective: Objective
    optima: tuple[Optimum, ...]
    law: Law | None
    why: str
    """Why there is no law."""
    left_out: dict[str, Interval]
    """By cell: ln η as predicted by the law through the other sizes."""
    seeds: int
    """The smallest number of seeds of a cell; 1 if seeds are not given."""


def fit_all(runs: Runs, keep_unbracketed: bool = False) -> list[Fit]:
    """One fit per objective, in order. Sizes that are not bracketed are in no law unless they are to be kept."""
    return [_fit(runs.points, objective, keep_unbracketed) for objective in runs.objectives]


def _fit(points: pd.DataFrame, objective: Objective, keep_unbracketed: bool) -> Fit:
    optima = []
    for (params, name), rows in points.groupby(["params", "name"]):
        scores = rows[objective.column].to_numpy(np.float64) * (-1.0 if objective.lower_is_better else 1.0)
        log_rates = np.round(np.log(rows["learning_rate"].to_numpy(np.float64)), 10)
        optima.append(
            find_optimum(Cell(str(name), float(str(params)), log_rates, scores, rows["seed"].to_numpy(np.int64)))
        )
    used = [o for o in optima if not o.needs or (keep_unbracketed and math.isfinite(o.log_rate))]
    seeds = min((len(np.unique(o.cell.seeds)) for o in used), default=0)
    sizes = len({o.cell.params for o in used})
    if sizes < FEWEST:
        found = f"{sizes} bracketed {'size' if sizes == 1 else 'sizes'} of the {FEWEST} that a law takes"
        why = "; ".join([found, *(f"{o.cell.name} needs {o.needs}" for o in optima if o.needs)])
        return Fit(objective, tuple(optima), None, why, {}, seeds)
    left_out: dict[str, Interval] = {}
    for params in {o.cell.params for o in used}:
        law = fit_law([o for o in used if o.cell.params != params])
        left_out |= {o.cell.name: law.predict(params) for o in used if o.cell.params == params}
    return Fit(objective, tuple(optima), fit_law(used), "", left_out, seeds)


def fit_law(optima: Sequence[Optimum]) -> Law:
    """The line through optima of two or more sizes; of two optima, it is without intervals (NaN)."""
    x = np.array([[math.log(o.cell.params), 1.0] for o in optima])
    y = np.array([o.log_rate for o in optima])
    solve = np.linalg.pinv(x)
    coefficients = solve @ y
    freedom = len(y) - 2
    variance = float(((y - x @ coefficients) ** 2).sum()) / freedom if freedom else math.nan
    covariance = variance * solve @ solve.T
    pairs = zip(coefficients.tolist(), np.sqrt(np.diag(covariance)).tolist(), strict=True)
    slope, constant = (Interval(estimate, error, freedom) for estimate, error in pairs)
    return Law(tuple(o.cell.name for o in optima), slope, constant, covariance, math.sqrt(variance))

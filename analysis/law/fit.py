"""The learning-rate law ln η* = a ln N + b: least squares through the optima of the sizes (MM1, section 4, Eq. 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.law.optimum import Cell, Optimum, find_optimum
from analysis.law.runs import Objective, Runs
from analysis.statistics import Floats, Interval
from mm1_lab.config import FEWEST_SIZES
from mm1_lab.formatting import counted

VERDICT_SEEDS = 3
"""Seeds per rate that a verdict needs, as a seed shifts all rates of a size together; with fewer there is none."""


@dataclass(frozen=True)
class Law:
    """A least-squares line. Intervals are Student's t with (optima − 2) degrees of freedom."""

    slope: Interval
    constant: Interval
    covariance: Floats
    scatter: float
    """Standard deviation of the optima around the line, in ln η; NaN for two optima."""

    def line(self, params: float, spread: float = 0.0) -> Interval:
        """ln η by the law; `spread` is a standard deviation added to its error."""
        log_params = math.log(params)
        row = np.array([log_params, 1.0])
        variance = row @ self.covariance @ row + spread**2
        estimate = self.slope.estimate * log_params + self.constant.estimate
        return Interval(estimate, math.sqrt(variance), self.slope.degrees_of_freedom)

    def predict(self, params: float) -> Interval:
        """ln η with the prediction interval for the optimum that a search at this size would find."""
        return self.line(params, self.scatter)


@dataclass(frozen=True)
class Fit:
    """The optima by one objective and the law through those that are bracketed."""

    objective: Objective
    optima: tuple[Optimum, ...]
    law: Law | None
    why: str
    """Why there is no law."""
    left_out: dict[str, Interval]
    """By cell: ln η as predicted by the law through the other sizes."""
    seeds: int
    """The smallest number of seeds of a cell; 1 if seeds are not given."""


def fit_runs(runs: Runs) -> list[Fit]:
    """A fit by each objective; the first one that has a law is the main one."""
    fits = [fit_objective(runs.points, objective) for objective in runs.objectives]
    return sorted(fits, key=lambda fit: fit.law is None)


def fit_objective(points: pd.DataFrame, objective: Objective) -> Fit:
    """Fits the law by one column of scores."""
    sign = -1.0 if objective.lower_is_better else 1.0
    optima = []
    for (params, name), rows in points.groupby(["params", "name"]):
        rates = rows["learning_rate"].to_numpy(np.float64)
        cell = Cell(
            name=str(name),
            params=float(str(params)),
            log_rates=np.round(np.log(rates), 10),
            scores=sign * rows[objective.column].to_numpy(np.float64),
            seeds=rows["seed"].to_numpy(np.int64),
        )
        optima.append(find_optimum(cell))
    used = [optimum for optimum in optima if not optimum.needs]
    seeds = min((_fewest_seeds(optimum.cell) for optimum in used), default=0)
    sizes = {optimum.cell.params for optimum in used}
    if len(sizes) < FEWEST_SIZES:
        why = [f"{counted(len(sizes), 'bracketed size')} of the {FEWEST_SIZES} that a law takes"]
        for optimum in optima:
            if optimum.needs:
                why.append(f"{optimum.cell.name} needs {optimum.needs}")
        return Fit(objective, tuple(optima), None, "; ".join(why), {}, seeds)
    left_out = {}
    for one in used:
        others = [optimum for optimum in used if optimum.cell.params != one.cell.params]
        left_out[one.cell.name] = fit_law(others).predict(one.cell.params)
    return Fit(objective, tuple(optima), fit_law(used), "", left_out, seeds)


def _fewest_seeds(cell: Cell) -> int:
    """The seeds of the rate that has the fewest."""
    return int(pd.Series(cell.seeds).groupby(cell.log_rates).nunique().min())


def fit_law(optima: Sequence[Optimum]) -> Law:
    """The line through optima of two or more sizes; of two optima, it is without intervals (NaN)."""
    x = np.array([[math.log(optimum.cell.params), 1.0] for optimum in optima])
    y = np.array([optimum.log_rate for optimum in optima])
    solve = np.linalg.pinv(x)
    slope, constant = (solve @ y).tolist()
    freedom = len(y) - 2
    rest = y - x @ [slope, constant]
    variance = float((rest**2).sum()) / freedom if freedom else math.nan
    covariance = variance * solve @ solve.T
    slope_error, constant_error = np.sqrt(np.diag(covariance)).tolist()
    return Law(
        slope=Interval(slope, slope_error, freedom),
        constant=Interval(constant, constant_error, freedom),
        covariance=covariance,
        scatter=math.sqrt(variance),
    )

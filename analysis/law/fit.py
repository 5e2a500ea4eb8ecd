"""The learning-rate law ln η* = a ln N + b: least squares through the optima of the sizes (MM1, section 4, Eq. 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.law.optimum import Cell, Optimum, find_optimum
from analysis.law.runs import Objective, Runs
from analysis.statistics import Floats, Interval
from mm1_lab.config import FEWEST_SIZES
from mm1_lab.formatting import counted

VERDICT_SEEDS = 3
"""Seeds per rate that a verdict needs, as a seed shifts all rates of a size together; with fewer there is none."""

WIDEST = 3.0
"""Orders of magnitude over which a prediction's interval may extend. Beyond, it excludes no rate that one would try."""

NARROWEST = 2.0
"""The largest size of a law divided by its smallest. Below, a vague prediction is told to come from that alone."""


@dataclass(frozen=True)
class Law:
    """A least-squares line. Intervals are Student's t with (optima − 2) degrees of freedom."""

    slope: Interval
    constant: Interval
    covariance: Floats
    scatter: float
    """Standard deviation of the optima around the line, in ln η; NaN for two optima."""
    gaps: Floats
    """(2, optima): how far slope and constant change if an optimum that is the last rate before a cliff is the cliff
    instead; the intervals are wider by what those of all optima can change. Zeros for the other optima."""

    @property
    def slopes(self) -> tuple[Interval, Interval]:
        """The slope at either end of what optima at cliffs leave open, with the error of the scatter alone."""
        error = math.sqrt(self.covariance[0, 0])
        changes = self.gaps[0]
        lower, upper = changes[changes < 0].sum(), changes[changes > 0].sum()
        estimate, freedom = self.slope.estimate, self.slope.degrees_of_freedom
        return Interval(estimate + lower, error, freedom), Interval(estimate + upper, error, freedom)

    def line(self, params: float, spread: float = 0.0) -> Interval:
        """ln η by the law; `spread` is a standard deviation added to its error."""
        log_params = math.log(params)
        row = np.array([log_params, 1.0])
        variance = row @ self.covariance @ row + spread**2
        estimate = self.slope.estimate * log_params + self.constant.estimate
        return _widened(Interval(estimate, math.sqrt(variance), self.slope.degrees_of_freedom), row @ self.gaps)

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
    without: dict[float, Law]
    """For each size, by its parameters: the law through the other sizes."""
    seeds: int
    """The smallest number of seeds of a cell; 1 if seeds are not given."""

    @property
    def through(self) -> str:
        """`3 of 4 sizes; 1.2B left out`; empty if the law is that of all sizes."""
        out = [optimum.cell.name for optimum in self.optima if optimum.needs]
        if not out:
            return ""
        return f"{len(self.optima) - len(out)} of {len(self.optima)} sizes; {', '.join(out)} left out"


def fit_runs(runs: Runs) -> list[Fit]:
    """A fit by each objective; the first one that has a law is the main one."""
    fits = [fit_objective(runs.points, objective) for objective in runs.objectives]
    return sorted(fits, key=lambda fit: fit.law is None)


def fit_objective(points: pd.DataFrame, objective: Objective) -> Fit:
    """Fits the law by one column of scores."""
    sign = -1.0 if objective.lower_is_better else 1.0
    optima, used = [], []
    seeds = []
    for (params, size), rows in points.groupby(["params", "size"]):
        cell = Cell(
            name=str(size),
            params=float(str(params)),
            log_rates=np.round(np.log(rows["learning_rate"].to_numpy(np.float64)), 10),
            scores=sign * rows[objective.column].to_numpy(np.float64),
            seeds=rows["seed"].to_numpy(np.int64),
        )
        optimum = find_optimum(cell)
        optima.append(optimum)
        if not optimum.needs:
            used.append(optimum)
            seeds.append(int(rows.groupby("learning_rate")["seed"].nunique().min()))
    sizes = {optimum.cell.params for optimum in used}
    law = None
    why = ""
    without = {}
    if len(sizes) < FEWEST_SIZES:
        missing = [f"{optimum.cell.name} needs {optimum.needs}" for optimum in optima if optimum.needs]
        why = "; ".join([f"{counted(len(sizes), 'bracketed size')} of the {FEWEST_SIZES} that a law takes", *missing])
    else:
        law = fit_law(used)
        for params in sizes:
            others = [optimum for optimum in used if optimum.cell.params != params]
            without[params] = fit_law(others)
    return Fit(objective, tuple(optima), law, why, without, min(seeds, default=0))


def fit_law(optima: Sequence[Optimum]) -> Law:
    """The line through optima of two or more sizes; of two optima, it is without intervals (NaN).

    Where the optimum of a size is the last rate before a cliff, the true one may be anywhere between the two. Scatter
    does not show this if grids are alike.
    """
    design = np.array([[math.log(optimum.cell.params), 1.0] for optimum in optima])
    log_rates = np.array([optimum.log_rate for optimum in optima])
    solve = np.linalg.pinv(design)
    slope, constant = (solve @ log_rates).tolist()
    residuals = log_rates - design @ [slope, constant]
    freedom = len(optima) - 2
    variance = float((residuals**2).sum()) / freedom if freedom else math.nan
    covariance = variance * solve @ solve.T
    slope_error, constant_error = np.sqrt(np.diag(covariance)).tolist()
    gaps = solve * [optimum.gap for optimum in optima]
    return Law(
        slope=_widened(Interval(slope, slope_error, freedom), gaps[0]),
        constant=_widened(Interval(constant, constant_error, freedom), gaps[1]),
        covariance=covariance,
        scatter=math.sqrt(variance),
        gaps=gaps,
    )


def _widened(interval: Interval, changes: Floats) -> Interval:
    """The interval with half its width larger by the most that some of the changes add up to, in either direction."""
    most = max(changes[changes > 0].sum(), -changes[changes < 0].sum())
    t = replace(interval, error=1.0).half_width
    return replace(interval, error=interval.error + most / t)


def orders_of_magnitude(log_rate: Interval) -> float:
    """Over which the interval of a rate extends."""
    return 2 * log_rate.half_width / math.log(10)


def is_vague(log_rate: Interval) -> bool:
    return orders_of_magnitude(log_rate) > WIDEST


def to_rates(log_rates: Any) -> Any:
    """exp of a number or an array, which intervals of hundreds of decades do not overflow."""
    return np.exp(np.clip(log_rates, -500, 500))
